"""Checks that the guidance cache of Latte Accelerate leaves negatives out and rebuilds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from acceleration import accelerated, core_sample, notes
from host import Stage, expect, relative, windows
from tiny import frames, given_for, load

STEPS = 10
HALVES = 5  # of them, see GuidancePlan: steps 3 to 6 and 8, with 7 between them
CACHED = (
    {"mode": "off"},
    {"mode": "balanced"},
    {"mode": "balanced", "policy": "teacache", "threshold": 4.0},
    {"mode": "balanced", "policy": "first-block", "threshold": 0.5},
    {"mode": "balanced", "policy": "pab"},
)
UNTOUCHED = {"policy": "auto", "threshold": 0.0, "forecast": "auto", "schedule": "auto"}


def halved(stage: Stage, model: Any = None, mode: str = "off", **changes: Any) -> Any:
    """Run Latte Accelerate with a guidance cache."""
    return accelerated(stage, model, mode, guidance_cache=True, **changes)


def counted(model: Any) -> tuple[Any, list[list[int]]]:
    """Return a copy of a MODEL that lists the conditionings of each of its calls."""
    calls: list[list[int]] = []

    def note(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        calls.append(list(given["cond_or_uncond"]))
        return apply(given["input"], given["timestep"], **given["c"])

    copy = model.clone()
    copy.set_model_unet_function_wrapper(note)
    return copy, calls


@contextmanager
def apart() -> Iterator[None]:
    """Let ComfyUI call the model for each conditioning alone."""
    import comfy.samplers

    original = comfy.samplers.can_concat_cond
    comfy.samplers.can_concat_cond = lambda one, other: one is other
    try:
        yield
    finally:
        comfy.samplers.can_concat_cond = original


def rows(calls: list[list[int]], kind: int) -> int:
    """Count the rows of positives (0) or negatives (1)."""
    return sum(call.count(kind) for call in calls)


def check_guidance_cache_equals_latte_core(stage: Stage) -> dict[str, float]:
    settings_of = stage.part("nodes.acceleration.accelerate").settings_of
    errors: dict[str, float] = {}
    run = {"steps": STEPS, "cfg": 7.5, "seed": 3, "latent_image": stage.latent(frames=6)}
    plain = relative(
        stage.latte_sampler(**run), core_sample(stage, plain_settings(stage), 7.5, 3, STEPS)[0]
    )
    for given in CACHED:
        settings = settings_of(**{**UNTOUCHED, **given}, guidance_cache=True)
        expected, report = core_sample(stage, settings, 7.5, 3, STEPS)
        model, calls = counted(halved(stage, **given))
        with notes() as heard:
            found = stage.latte_sampler(model, **run)
        expect(report.half_steps >= HALVES, given, report)
        expect(rows(calls, 1) == STEPS - report.half_steps, given, calls, report)
        expect(rows(calls, 0) == STEPS, given, calls)
        expect(f"Latte Accelerate: {report.sentence()}" in heard.texts, heard.texts, report)
        error = errors[str(given)] = relative(found, expected)
        expect(error < 1e-4, given, error)
        without = stage.latte_sampler(accelerated(stage, **given), **run)
        expect(relative(found, without) > 1e-3, given, "nothing was rebuilt")
    return {"plain": plain, **errors}


def plain_settings(stage: Stage) -> Any:
    """Return the core's settings that cache nothing."""
    return stage.part("latte_core.acceleration.settings").CacheSettings(policy="none")


def check_guidance_cache_in_one_batch_or_two_calls(stage: Stage) -> None:
    latents = (stage.latent(), {"samples": torch.zeros(2, 4, 4, 8, 8)})
    for given in CACHED[:3]:
        for latent in latents:
            model, together = counted(halved(stage, **given))
            expected = stage.ksampler(model, steps=STEPS, latent_image=latent)
            model, parted = counted(halved(stage, **given))
            with apart():
                found = stage.ksampler(model, steps=STEPS, latent_image=latent)
            expect(relative(found, expected) < 1e-4, given, relative(found, expected))
            expect(max(map(len, together)) == 2 and max(map(len, parted)) == 1, together, parted)
            counts = [rows(calls, kind) for calls in (together, parted) for kind in (0, 1)]
            expect(counts == [STEPS, STEPS - HALVES] * 2 or given != CACHED[0], given, counts)
            expect(counts[:2] == counts[2:] and counts[1] < STEPS, given, counts)


def check_guidance_cache_in_whole_videos_and_batches_of_frames(stage: Stage) -> None:
    flat = stage.latte_sampler(halved(stage), steps=STEPS)
    whole = {"samples": torch.zeros(1, 4, 4, 8, 8)}
    found = stage.latte_sampler(halved(stage), steps=STEPS, latent_image=whole)
    expect(relative(found[0].transpose(0, 1), flat) < 1e-5)


def check_guidance_cache_rests_without_guidance(stage: Stage) -> None:
    for run in (stage.ksampler, stage.latte_sampler):
        model, calls = counted(halved(stage))
        with notes() as heard:
            found = run(model, steps=STEPS, cfg=1.0)
        expect(torch.equal(found, run(steps=STEPS, cfg=1.0)))
        expect(calls == [[0]] * STEPS, calls)
        expect("guidance_cache" not in " ".join(heard.texts), heard.texts)


def check_guidance_cache_leaves_other_guidance_exact_and_says_so(stage: Stage) -> None:
    other, _ = stage.prompts("a green circle moving left")
    pair = {"conditioning_1": stage.positive, "conditioning_2": other}
    area = {"x": 0, "y": 0, "width": 32, "height": 64, "strength": 1.0}
    times = {"conditioning": stage.positive, "start": 0.0, "end": 0.5}
    cases = {
        "several": stage.call("ConditioningCombine", **pair)[0],
        "area": stage.call("ConditioningSetArea", conditioning=stage.positive, **area)[0],
        "times": stage.call("ConditioningSetTimestepRange", **times)[0],
    }
    for name, positive in cases.items():
        with notes() as heard:
            found = stage.ksampler(halved(stage), steps=STEPS, positive=positive)
        expect(torch.equal(found, stage.ksampler(steps=STEPS, positive=positive)), name)
        warned = [text for text in heard.texts if "guidance_cache needs one positive" in text]
        expect(len(warned) == 1, name, heard.texts)


def check_guidance_cache_says_when_another_node_computes_guidance(stage: Stage) -> None:
    import comfy.samplers

    def by_itself(args: dict[str, Any]) -> list[torch.Tensor]:
        given = (args["input"], args["sigma"], args["model_options"])
        call = comfy.samplers.calc_cond_batch
        positive = call(args["model"], [args["conds"][0], None], *given)[0]
        return [positive, call(args["model"], [None, args["conds"][1]], *given)[1]]

    def unseen(args: dict[str, Any]) -> list[torch.Tensor]:
        given = (args["conds"], args["input"], args["sigma"], args["model_options"])
        return comfy.samplers._calc_cond_batch(args["model"], *given)

    for answer in (by_itself, unseen):
        model = halved(stage)
        model.set_model_sampler_calc_cond_batch_function(answer)
        with notes() as heard:
            found = stage.ksampler(model, steps=STEPS)
        expect(relative(found, stage.ksampler(steps=STEPS)) < 1e-4, answer.__name__)
        warned = [text for text in heard.texts if "guidance_cache needs one positive" in text]
        expect(len(warned) == 1, answer.__name__, heard.texts)


class Given:
    """A NOISE that was drawn before."""

    seed = 0

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def generate_noise(self, latent: dict[str, Any]) -> torch.Tensor:
        """Return it."""
        return self.noise


def follow(stage: Stage, model: Any, noise: torch.Tensor) -> torch.Tensor:
    """Sample from a given noise with stock euler."""
    sigmas = stage.call("LatteScheduler", model=stage.model, steps=STEPS, denoise=1.0)[0]
    pair = {"positive": stage.positive, "negative": stage.negative, "cfg": 4.0}
    return stage.call(
        "SamplerCustomAdvanced",
        noise=Given(noise),
        guider=stage.call("CFGGuider", model=model, **pair)[0],
        sampler=stage.call("KSamplerSelect", sampler_name="euler")[0],
        sigmas=sigmas,
        latent_image=stage.latent(frames=noise.shape[0]),
    )[0]["samples"]


def check_guidance_cache_keeps_context_windows_apart(stage: Stage) -> float:
    """Windows that share no frame are videos of their own, so the result is known."""
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    for mode in ("off", "balanced"):
        model, calls = counted(halved(stage, mode=mode))
        expected = torch.cat([follow(stage, model, part) for part in noise.split(4)])
        counts = [rows(calls, kind) for kind in (0, 1)]
        expect(counts[1] < counts[0] == 2 * STEPS, counts)
        calls.clear()
        with notes() as heard:
            found = follow(stage, windows(stage, model, 4, 0), noise)
        expect([rows(calls, kind) for kind in (0, 1)] == counts, mode, calls)
        expect(
            f"{STEPS - counts[1] // 2} without the other half" in " ".join(heard.texts), heard.texts
        )
        expect(relative(found, expected) < 1e-5, mode, relative(found, expected))
    return relative(found, expected)


def check_guidance_cache_runs_over_overlapping_windows(stage: Stage) -> None:
    for schedule in (halved(stage), halved(stage, mode="balanced")):
        model, calls = counted(windows(stage, schedule, 4, 2))
        long = stage.latent(frames=10)
        found = stage.latte_sampler(model, steps=STEPS, latent_image=long)
        expect(bool(found.isfinite().all()) and rows(calls, 1) < rows(calls, 0), calls)
        expect(torch.equal(found, stage.latte_sampler(model, steps=STEPS, latent_image=long)))


def check_guidance_cache_on_samplers_with_two_calls_in_a_step(stage: Stage) -> None:
    for sampler in ("heun", "dpm_2", "dpmpp_sde"):
        model, calls = counted(halved(stage))
        found = stage.ksampler(model, steps=STEPS, sampler_name=sampler)
        expect(0 < rows(calls, 1) < rows(calls, 0) > STEPS, sampler, calls)
        expect(bool(found.isfinite().all()), sampler)


def check_guidance_cache_and_learned_variance(stage: Stage) -> None:
    model, calls = counted(halved(stage))
    found = stage.latte_sampler(model, steps=STEPS, method="ddpm")
    expect((rows(calls, 0), rows(calls, 1)) == (STEPS, STEPS - HALVES), calls)
    expect(bool(found.isfinite().all()))
    expect(relative(found, stage.latte_sampler(steps=STEPS, method="ddpm")) > 1e-4)


def check_guidance_cache_on_class_models(stage: Stage) -> None:
    model = load(stage, "class")
    given = {**given_for(stage, "class"), "steps": STEPS, "latent_image": frames(stage)}
    for method in ("ddim", "ddpm"):
        counting, calls = counted(halved(stage, model))
        found = stage.latte_sampler(counting, **{**given, "method": method})
        expect((rows(calls, 0), rows(calls, 1)) == (STEPS, STEPS - HALVES), method, calls)
        expect(bool(found.isfinite().all()), method)


def check_guidance_cache_is_replaced_and_taken_off(stage: Stage) -> None:
    plain = stage.ksampler(accelerated(stage), steps=STEPS)
    replaced = accelerated(stage, halved(stage, mode="balanced"))
    expect(torch.equal(stage.ksampler(replaced, steps=STEPS), plain))
    off = accelerated(stage, halved(stage), mode="off")
    expect(torch.equal(stage.ksampler(off, steps=STEPS), stage.ksampler(steps=STEPS)))
    twice, calls = counted(halved(stage, halved(stage)))
    stage.ksampler(twice, steps=STEPS)
    expect(rows(calls, 1) == STEPS - HALVES, calls)
