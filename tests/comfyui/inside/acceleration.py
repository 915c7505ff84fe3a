"""Checks that Latte Accelerate caches runs of every sampler, and keeps nothing behind them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from host import STARTER, Stage, expect, expect_error, relative, windows
from lora import starter as core_starter
from lora import write_file as write_lora
from tiny import frames, given_for, load

SCALING = 0.18215
STEPS = 10
MANY_STEPS = 50  # teacache's numbers are made for them; at 10 it skips none at a sensible threshold
COUNTS = re.compile(r"(\d+) of (\d+) steps in full")
POLICIES = (
    {"mode": "quality"},
    {"mode": "balanced", "forecast": "0"},
    {"mode": "quality", "forecast": "2"},
    {"mode": "balanced", "policy": "teacache", "threshold": 0.25},
    {"mode": "balanced", "policy": "first-block", "threshold": 0.5},
    {"mode": "balanced", "policy": "pab"},
)


class Notes(logging.Handler):
    """Keeps what the pack logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.texts.append(record.getMessage())

    def counts(self) -> list[tuple[int, int]]:
        """Return full and all steps of every cached run."""
        found = [COUNTS.search(text) for text in self.texts]
        return [(int(one[1]), int(one[2])) for one in found if one]


@contextmanager
def notes() -> Iterator[Notes]:
    """Listen to the pack's log."""
    logger, heard = logging.getLogger("latte"), Notes()
    level = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)


def accelerated(stage: Stage, model: Any = None, mode: str = "balanced", **changes: Any) -> Any:
    """Run Latte Accelerate."""
    return stage.call("LatteAccelerate", model=model or stage.model, mode=mode, **changes)[0]


def steps_for(given: dict[str, Any]) -> int:
    """Return how many steps a policy is tried with."""
    return MANY_STEPS if given.get("policy") == "teacache" else STEPS


def core_sample(
    stage: Stage, settings: Any, cfg: float, seed: int, steps: int
) -> tuple[torch.Tensor, Any]:
    """Run latte_core's loop with its own cache, as its Pipeline does: (F, 4, h, w) and report."""
    core = stage.part("latte_core.checkpoint.loading.loader").load_transformer(STARTER)
    noise = stage.part("latte_core.sampling.noise")
    guidance = stage.part("latte_core.sampling.guidance")
    text = torch.cat([stage.negative[0][0], stage.positive[0][0]])
    run = stage.part("latte_core.acceleration.run").RunCache(
        settings, core, num_steps=steps, sampler="ddim", ids=("negative", "positive"), followed=1
    )

    def predict(latents: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        def call(rows: slice, hooks: Any) -> torch.Tensor:
            return core(latents[rows], times[:1], text[rows], hooks=hooks)

        return run.predict(len(latents), float(times[0]), call)

    shape = (1, 4, 6, 8, 8)
    latents = stage.part("latte_core.sampling.loop").sample(
        guidance.guided_in_one_batch(predict, cfg),
        noise.make_noise(shape, seed),
        num_steps=steps,
        step_noise=noise.make_step_noise(shape, seed),
    )
    return latents[0].transpose(0, 1) / SCALING, run.report()


def check_cached_run_equals_latte_core(stage: Stage) -> dict[str, float]:
    settings_of = stage.part("nodes.acceleration.accelerate").settings_of
    errors: dict[str, float] = {}
    for given in POLICIES:
        widgets = {"policy": "auto", "threshold": 0.0, "forecast": "auto", "schedule": "auto"}
        steps = steps_for(given)
        expected, report = core_sample(stage, settings_of(**{**widgets, **given}), 7.5, 3, steps)
        run = {"steps": steps, "cfg": 7.5, "seed": 3, "latent_image": stage.latent(frames=6)}
        with notes() as heard:
            found = stage.latte_sampler(accelerated(stage, **given), **run)
        expect(heard.counts() == [(report.full_steps, steps)], given, heard.counts(), report)
        error = relative(found, expected)
        # two residuals that are continued make more of what was rounded
        expect(error < (3e-4 if given.get("forecast") == "2" else 1e-4), given, error)
        plain = relative(found, stage.latte_sampler(**run))
        expect(plain > 1e-4, given, "nothing was skipped")
        errors[str(given)] = error
    return errors


def check_every_policy_on_every_sampler(stage: Stage) -> None:
    for given in POLICIES:
        model, steps = accelerated(stage, **given), steps_for(given)
        for run in (stage.ksampler, stage.latte_sampler):
            with notes() as heard:
                first, second = run(model, steps=steps), run(model, steps=steps)
            expect(torch.equal(first, second), "two runs differ", given)
            expect(bool(first.isfinite().all()), given)
            counts = heard.counts()
            expect(len(counts) == 2 and counts[0] == counts[1], counts)
            expect(counts[0][1] == steps, counts)
            # pab leaves out attention, not steps
            expect(counts[0][0] < steps or given.get("policy") == "pab", given, counts)


def check_room_is_made_for_what_attention_broadcast_keeps(stage: Stage) -> None:
    asked: list[int] = []

    def note(_: Any, num_bytes: int, shape: Any, keeper: str) -> None:
        expect(keeper == "attention broadcast", keeper)
        expect(shape.numel() == 4 * 6 * 8 * 8, shape)
        asked.append(num_bytes)

    run: dict[str, Any] = {"steps": 2, "latent_image": stage.latent(frames=6)}
    with patch.object(stage.part("nodes.host.run.acceleration"), "make_room", note):
        for given in POLICIES:
            stage.latte_sampler(accelerated(stage, **given), **run)
    config = stage.model.model.diffusion_model.config
    tokens = 2 * 6 * (8 // config.patch_size) ** 2
    itemsize = stage.part("nodes.host.run.precision").compute_dtype(stage.model).itemsize
    expect(asked == [3 * config.num_layers * config.hidden_size * tokens * itemsize], asked)


def check_other_models_leave_for_what_a_run_keeps(stage: Stage) -> None:
    import comfy.model_management as management  # `host` makes it known

    make_room, needs = stage.part("nodes.host.run.memory").make_room, 10**6
    asked: list[float] = []

    def free_memory(needed: float, *_: Any, keep_loaded: Any) -> list[Any]:
        expect(all(one.model is stage.model for one in keep_loaded))
        asked.append(needed)
        return []

    with (
        patch.object(management, "free_memory", free_memory),
        patch.object(management, "get_free_memory", lambda _: float(needs)),
    ):
        make_room(stage.model, needs, (1, 4, 6, 8, 8), "attention broadcast")
        expect(asked == [], "room was made in main memory")
        with patch.object(management, "is_device_cpu", lambda _: False), notes() as heard:
            make_room(stage.model, needs, (1, 4, 6, 8, 8), "attention broadcast")
    expect(len(asked) == 1 and asked[0] > needs, asked)
    expect(len(heard.texts) == 1 and "attention broadcast keeps" in heard.texts[0], heard.texts)


def check_full_steps_are_as_many_as_the_dial_says(stage: Stage) -> None:
    for mode, expected in {"quality": 6, "balanced": 5, "fast": 3}.items():
        model = accelerated(stage, mode=mode)
        for sampler in ("euler", "dpmpp_2m"):
            with notes() as heard:
                stage.ksampler(model, steps=STEPS, sampler_name=sampler)
            expect(heard.counts() == [(expected, STEPS)], mode, sampler, heard.counts())


def check_samplers_with_two_calls_in_a_step(stage: Stage) -> None:
    model = accelerated(stage)
    for sampler in ("heun", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral"):
        with notes() as heard:
            first = stage.ksampler(model, steps=STEPS, sampler_name=sampler)
        full, calls = heard.counts()[0]
        expect(calls > STEPS and 0 < full < calls, sampler, full, calls)
        expect(bool(first.isfinite().all()), sampler)
        again = stage.ksampler(model, steps=STEPS, sampler_name=sampler)
        expect(torch.equal(first, again), sampler)


def check_off_takes_the_cache_away(stage: Stage) -> None:
    off = accelerated(stage, accelerated(stage), mode="off")
    expect(torch.equal(stage.ksampler(off, steps=6), stage.ksampler(steps=6)))
    with notes() as heard:
        stage.ksampler(accelerated(stage, accelerated(stage, mode="fast")), steps=STEPS)
    expect(heard.counts() == [(5, STEPS)], "the last one does not win", heard.counts())


def check_conditionings_apart_and_five_dimensions(stage: Stage) -> None:
    """ComfyUI calls the model once or twice in a step; the cache must not see a difference."""
    import comfy.samplers

    model = accelerated(stage)
    batched = stage.ksampler(model, steps=STEPS)
    original = comfy.samplers.can_concat_cond
    comfy.samplers.can_concat_cond = lambda one, other: one is other
    try:
        with notes() as heard:
            apart = stage.ksampler(model, steps=STEPS)
    finally:
        comfy.samplers.can_concat_cond = original
    expect(heard.counts() == [(5, STEPS)], heard.counts())
    expect(relative(apart, batched) < 1e-4, relative(apart, batched))
    latent = {"samples": torch.zeros(2, 4, 4, 8, 8)}
    with notes() as heard:
        videos = stage.ksampler(model, steps=STEPS, latent_image=latent)
    expect(videos.shape == (2, 4, 4, 8, 8) and heard.counts() == [(5, STEPS)], heard.counts())


def check_partial_denoising_begins_with_a_full_step(stage: Stage) -> None:
    latent = {"samples": torch.randn(4, 4, 8, 8)}
    for run in (stage.ksampler, stage.latte_sampler):
        with notes() as heard:
            found = run(accelerated(stage), steps=STEPS, denoise=0.6, latent_image=latent)
        full, steps = heard.counts()[0]
        expect(2 <= full < steps <= STEPS, full, steps)
        expect(bool(found.isfinite().all()))


def check_lora_and_cache(stage: Stage) -> None:
    name = "accelerated.safetensors"
    write_lora(stage, name, core_starter(stage))
    model = stage.call(
        "LoraLoaderModelOnly", model=stage.model, lora_name=name, strength_model=0.7
    )[0]
    outside = stage.ksampler(accelerated(stage, model), steps=STEPS)
    before = stage.call(
        "LoraLoaderModelOnly", model=accelerated(stage), lora_name=name, strength_model=0.7
    )[0]
    expect(torch.equal(outside, stage.ksampler(before, steps=STEPS)), "the order counts")
    expect(relative(outside, stage.ksampler(accelerated(stage), steps=STEPS)) > 1e-3)


def check_context_windows_and_cache(stage: Stage) -> None:
    windowed = windows(stage, accelerated(stage), 4, 2, is_causal=True)
    with notes() as heard:
        found = stage.ksampler(windowed, steps=STEPS, latent_image=stage.latent(frames=10))
    expect(heard.counts() == [(5, STEPS)], heard.counts())
    expect("after all" not in " ".join(heard.texts), heard.texts)
    expect(bool(found.isfinite().all()))


def check_skip_layer_guidance_and_cache(stage: Stage) -> None:
    """Its third call has the conditioning of the first, with other blocks."""
    node = stage.stock.get("SkipLayerGuidanceDiT")
    if node is None:
        return
    inputs: dict[str, Any] = {"double_layers": "1", "single_layers": "", "scale": 3.0}
    inputs |= {"start_percent": 0.0, "end_percent": 1.0, "rescaling_scale": 0.0}
    model = stage.call("SkipLayerGuidanceDiT", model=accelerated(stage), **inputs)[0]
    with notes() as heard:
        found = stage.ksampler(model, steps=STEPS)
    expect(heard.counts() == [(5, STEPS)], heard.counts())
    expect(bool(found.isfinite().all()))


def check_nothing_is_left_after_cancel(stage: Stage) -> None:
    import comfy.model_management as management

    model = accelerated(stage)
    expected = stage.ksampler(model, steps=STEPS)
    calls: list[int] = []

    def stop_at_fourth(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    stopped = model.clone()
    stopped.set_model_unet_function_wrapper(stop_at_fourth)
    with notes() as heard:
        expect_error(
            "InterruptProcessingException", [], lambda: stage.latte_sampler(stopped, steps=STEPS)
        )
    expect(0 < heard.counts()[0][1] < STEPS, heard.texts)
    expect(torch.equal(stage.ksampler(model, steps=STEPS), expected), "the next run differs")
    options = model.model_options["transformer_options"]
    key = stage.part("nodes.host.model.hooks").RUN_CACHE
    expect(key not in options and key not in stage.model.model_options, options)


def check_learned_variance_comes_from_a_cached_run(stage: Stage) -> None:
    with notes() as heard:
        found = stage.latte_sampler(accelerated(stage), steps=STEPS, method="ddpm")
    expect(heard.counts() == [(5, STEPS)], heard.counts())
    expect(bool(found.isfinite().all()))
    expect(relative(found, stage.latte_sampler(steps=STEPS, method="ddpm")) > 1e-4)


def check_a_stock_cache_is_warned_of(stage: Stage) -> None:
    inputs = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    for name in ("EasyCache", "LazyCache"):
        both = stage.call(name, model=accelerated(stage), **inputs)[0]
        with notes() as heard:
            found = stage.ksampler(both, steps=STEPS)
        warned = [text for text in heard.texts if name in text and "Latte Accelerate" in text]
        expect(len(warned) == 1, heard.texts)
        expect(bool(found.isfinite().all()), name)


def check_class_models_are_accelerated(stage: Stage) -> None:
    for variety in ("class", "none", "late_fusion", "two_attentions", "parallel", "tokens"):
        model = load(stage, variety)
        given = given_for(stage, variety)
        latent = frames(stage)
        for method in ("ddim", "ddpm"):
            with notes() as heard:
                found = stage.latte_sampler(
                    accelerated(stage, model),
                    **{**given, "steps": STEPS, "method": method, "latent_image": latent},
                )
            expect(heard.counts() == [(5, STEPS)], variety, method, heard.counts())
            expect(bool(found.isfinite().all()), variety, method)


def check_a_schedule_file_is_followed_or_refused(stage: Stage) -> None:
    import folder_paths

    folder = Path(folder_paths.models_dir) / "latte_schedules"
    folder.mkdir(parents=True, exist_ok=True)
    part = stage.part("latte_core.acceleration.schedule_file")
    part.ScheduleFile(
        model="starter",
        digest="",
        sampler="ddim",
        num_steps=STEPS,
        guidance_scale=4.0,
        forecast=0,
        prompts=1,
        schedules=(part.CalibratedSchedule(full_steps=(0, 1, 4, 9)),),
    ).write(folder / "tiny.json")
    listed = stage.own["LatteAccelerate"].INPUT_TYPES()["optional"]["schedule"][0]
    expect(listed[0] == "auto" and "tiny.json" in listed, listed)
    model = accelerated(stage, schedule="tiny.json")
    with notes() as heard:
        stage.latte_sampler(model, steps=STEPS)
    expect(heard.counts() == [(4, STEPS)], heard.counts())
    words = ["calibrated", "ddim", "euler"]
    expect_error("IncompatibleInputsError", words, lambda: stage.ksampler(model, steps=STEPS))
