"""Checks that Latte Sampler gives the authors' samples, with and without classes, in any layout."""

from __future__ import annotations

import logging
from typing import Any

import torch
from host import STARTER, Stage, expect, expect_error, relative
from tiny import VARIETIES, core_model, given_for, label, load, nothing
from tiny import frames as empty

SCALING = 0.18215
LIMIT = 1e-4


def reference(stage: Stage, variety: str, *, seed: int = 7, order: str = "comfyui", **run: Any):
    """Run latte_core.sample_reference on the start noise of a seed; (B, 4, F, h, w)."""
    changes = VARIETIES[variety]
    model = core_model(stage, **changes)
    batch, count, side = run.pop("batch", 1), run.pop("frames", 3), run.pop("side", 8)
    shape = (batch, 4, count, side, side)
    if order == "comfyui":
        start = stage.part("latte_core.sampling.noise").make_noise(shape, seed)
    else:
        stream = stage.part("latte_core.sampling.reference_noise").ReferenceStream
        start = stream(shape, seed, is_guided=run["guidance_scale"] > 1).draw_start()
    if model.config.conditioning == "class":
        run.setdefault("class_labels", 3)
    sample = stage.part("latte_core.sampling.reference").sample_reference
    return sample(model, start, seed=seed, noise_order=order, **run) / SCALING


def ours(stage: Stage, variety: str, **changes: Any) -> torch.Tensor:
    """Run Latte Sampler on the same; (F, 4, h, w), or as the latent is."""
    given = {**given_for(stage, variety), "latent_image": empty(stage), **changes}
    return stage.latte_sampler(load(stage, variety), **given)


def as_frames(videos: torch.Tensor) -> torch.Tensor:
    """(1, 4, F, h, w) -> (F, 4, h, w)."""
    return videos[0].transpose(0, 1)


def check_ddpm_250_equals_the_reference(stage: Stage) -> dict[str, float]:
    errors: dict[str, float] = {}
    for variety, cfg in (("class", 7.0), ("none", 1.0)):
        found = ours(stage, variety, method="ddpm", step_string="250", cfg=cfg)
        run = {"method": "ddpm", "steps": "250", "guidance_scale": cfg}
        errors[variety] = relative(found, as_frames(reference(stage, variety, **run)))
    expect(max(errors.values()) < LIMIT, errors)
    return errors


def check_ddim_250_equals_the_reference(stage: Stage) -> dict[str, float]:
    errors: dict[str, float] = {}
    for variety, cfg in (("class", 7.0), ("none", 1.0)):
        found = ours(stage, variety, step_string="250", cfg=cfg)
        run = {"method": "ddim", "steps": "250", "guidance_scale": cfg}
        errors[variety] = relative(found, as_frames(reference(stage, variety, **run)))
    expect(max(errors.values()) < LIMIT, errors)
    return errors


def check_every_variety_samples_as_in_latte_core(stage: Stage) -> dict[str, float]:
    errors: dict[str, float] = {}
    for variety in VARIETIES:
        count = VARIETIES[variety].get("num_frames", 3)
        cfg = 1.0 if variety == "no_null_class" else 3.0
        scale = 1.0 if VARIETIES[variety].get("conditioning") == "none" else cfg
        for method in ("ddpm", "ddim"):
            found = ours(
                stage, variety, method=method, steps=6, cfg=cfg, latent_image=empty(stage, count)
            )
            run = {"method": method, "steps": 6, "guidance_scale": scale, "frames": count}
            error = relative(found, as_frames(reference(stage, variety, **run)))
            errors[f"{variety} {method}"] = error
    expect(max(errors.values()) < LIMIT, errors)
    return errors


def check_step_strings_and_eta_equal_the_reference(stage: Stage) -> None:
    for string in ("10", "3,4,5", "ddim10", " DDIM10 "):
        for method, eta in (("ddim", 0.6), ("ddpm", 0.0)):
            given = {"method": method, "eta": eta}
            found = ours(stage, "class", step_string=string, cfg=4.0, **given)
            run = {"steps": string, "guidance_scale": 4.0, **given}
            error = relative(found, as_frames(reference(stage, "class", **run)))
            expect(error < LIMIT, string, method, error)


def check_reference_noise_is_that_of_the_authors_scripts(stage: Stage) -> None:
    for cfg in (1.0, 4.0):
        found = ours(stage, "class", method="ddpm", steps=6, cfg=cfg, noise_order="reference")
        run = {"method": "ddpm", "steps": 6, "guidance_scale": cfg, "order": "reference"}
        error = relative(found, as_frames(reference(stage, "class", **run)))
        expect(error < LIMIT, cfg, error)


def check_two_class_videos_equal_the_reference(stage: Stage) -> None:
    latent = {"samples": torch.zeros(2, 4, 3, 8, 8)}
    for order in ("comfyui", "reference"):
        given = {"method": "ddpm", "steps": 6, "cfg": 4.0, "noise_order": order}
        found = ours(stage, "class", latent_image=latent, **given)
        run = {"method": "ddpm", "steps": 6, "guidance_scale": 4.0, "order": order, "batch": 2}
        error = relative(found, reference(stage, "class", **run))
        expect(error < LIMIT, order, error)


def check_null_class_is_what_guidance_leads_away_from(stage: Stage) -> None:
    """One step of KSampler from nothing but noise, against the formula of docs/model.md 2.9."""
    model, core = load(stage), core_model(stage)
    guided = stage.part("latte_core.sampling.class_guidance").forward_with_guidance
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    noise = stage.part("latte_core.sampling.noise").make_noise((1, 4, 3, 8, 8), 7)
    given = {**label(stage, 2), "latent_image": empty(stage), "steps": 1, "cfg": 5.0}
    found = stage.ksampler(model, scheduler="simple", **given) * SCALING
    predicted = guided(core, noise, torch.tensor([999]), torch.tensor([2]), 5.0)[:, :4]
    expected = noise * (1 + sigma**2) ** 0.5 - sigma * predicted
    expect(relative(found, as_frames(expected)) < LIMIT, relative(found, as_frames(expected)))


def check_stock_samplers_run_on_class_models(stage: Stage) -> None:
    model = load(stage)
    given = {**label(stage), "latent_image": empty(stage)}
    for name in ("euler", "dpmpp_2m", "uni_pc", "ddim", "euler_ancestral"):
        out = stage.ksampler(model, sampler_name=name, **given)
        expect(out.shape == (3, 4, 8, 8) and bool(out.isfinite().all()), name)
    other = stage.ksampler(model, **{**given, **label(stage, 1)})
    expect(relative(stage.ksampler(model, **given), other) > 1e-3, "the class has no effect")


def check_stock_euler_agrees_on_class_models(stage: Stage) -> float:
    model = load(stage)
    sigmas = stage.call("LatteScheduler", model=model, steps=20, denoise=1.0)[0]
    table = model.get_model_object("model_sampling").sigmas
    expect(torch.equal(sigmas[:2], table[[999, 946]].float()), sigmas[:2])
    conds = label(stage)
    guider = stage.call("CFGGuider", model=model, cfg=3.0, **conds)[0]
    found = stage.call(
        "SamplerCustomAdvanced",
        noise=stage.call("LatteNoise", noise_seed=7, noise_order="comfyui")[0],
        guider=guider,
        sampler=stage.call("KSamplerSelect", sampler_name="euler")[0],
        sigmas=sigmas,
        latent_image=empty(stage),
    )[0]["samples"]
    expected = ours(stage, "class", steps=20, cfg=3.0)
    error = float((found - expected).abs().max() / (expected.max() - expected.min()))
    expect(error < 1e-3, error)
    return error


def text_reference(stage: Stage, sampler: str, steps: int, cfg: float, **run: Any) -> torch.Tensor:
    """Run latte_core's loop for text-to-video on the stage's text; (F, 4, h, w)."""
    core = stage.part("latte_core.checkpoint.loading.loader").load_transformer(STARTER)
    noise_part = stage.part("latte_core.sampling.noise")
    order, switch = run.get("order", "comfyui"), run.get("temporal", True)
    text = torch.cat([stage.negative[0][0], stage.positive[0][0]])
    shape = (1, 4, run.get("frames", 4), 8, 8)

    def predict(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return core(latents, timesteps, text, enable_temporal_attention=switch)

    latents = stage.part("latte_core.sampling.loop").sample(
        stage.part("latte_core.sampling.guidance").guided_in_one_batch(predict, cfg),
        noise_part.make_noise(shape, 7, order),
        sampler=sampler,
        num_steps=steps,
        step_noise=noise_part.make_step_noise(shape, 7, order),
    )
    return as_frames(latents) / SCALING


def check_text_to_video_ddpm_equals_latte_core(stage: Stage) -> dict[str, float]:
    errors: dict[str, float] = {}
    for order in ("comfyui", "reference"):
        found = stage.latte_sampler(method="ddpm", steps=10, noise_order=order)
        errors[order] = relative(found, text_reference(stage, "ddpm", 10, 4.0, order=order))
    expect(max(errors.values()) < LIMIT, errors)
    return errors


def check_text_to_video_options_equal_latte_core(stage: Stage) -> None:
    given = {"steps": 10, "noise_order": "reference"}
    found = stage.latte_sampler(**given)
    expect(relative(found, text_reference(stage, "ddim", 10, 4.0, order="reference")) < LIMIT)
    found = stage.latte_sampler(steps=10, temporal_attention=False)
    expect(relative(found, text_reference(stage, "ddim", 10, 4.0, temporal=False)) < LIMIT)
    strided = stage.latte_sampler(steps=3, step_string="ddim10")
    expect(torch.equal(strided, stage.latte_sampler(steps=10)), "ddim10 is leading spacing")


def check_one_frame_is_a_picture(stage: Stage) -> None:
    for switch in (True, False):
        found = stage.latte_sampler(
            steps=10, latent_image=stage.latent(frames=1), temporal_attention=switch
        )
        run = {"frames": 1, "temporal": switch}
        expect(relative(found, text_reference(stage, "ddim", 10, 4.0, **run)) < LIMIT, switch)


def check_class_frames_without_temporal_attention(stage: Stage) -> None:
    found = ours(stage, "class", steps=5, temporal_attention=False)
    run = {"method": "ddim", "steps": 5, "guidance_scale": 4.0, "temporal_attention": False}
    expect(relative(found, as_frames(reference(stage, "class", **run))) < LIMIT)


def check_denoise_is_the_end_of_a_longer_run(stage: Stage) -> None:
    start = {"samples": torch.randn(3, 4, 8, 8)}
    for method in ("ddim", "ddpm"):
        little = ours(stage, "class", latent_image=start, denoise=0.01, steps=1, method=method)
        expect(relative(little, start["samples"]) < 0.3, method)
    sampling = stage.part("nodes.host.run.sampling")
    config = core_model(stage).config
    expect(sampling.latte_timesteps(config, 2, 0.5) == (333, 0))
    expect(sampling.latte_timesteps(config, 9, 0.5, "4") == (333, 0))
    expect(sampling.latte_timesteps(config, 9, 0.01, "4") == (0,))


def check_noise_mask_keeps_frames_in_ddpm(stage: Stage) -> None:
    start = {"samples": torch.randn(3, 4, 8, 8)}
    mask = torch.ones(3, 64, 64)
    mask[0] = 0
    masked = stage.call("SetLatentNoiseMask", samples=start, mask=mask)[0]
    out = ours(stage, "class", latent_image=masked, method="ddpm", steps=4)
    expect(relative(out[0], start["samples"][0]) < 1e-4)
    expect(relative(out[1:], start["samples"][1:]) > 0.01)


def check_ddpm_and_caches_or_windows_do_not_mix(stage: Stage) -> None:
    model = load(stage)
    given = {**label(stage), "method": "ddpm", "steps": 8}
    cache = {"reuse_threshold": 50.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    cached = stage.call("EasyCache", model=model, **cache)[0]
    expect_error(
        "InvalidInputError",
        ["EasyCache", "ddim"],
        lambda: stage.latte_sampler(cached, latent_image=empty(stage), **given),
    )
    known = {item.id for item in stage.stock["ContextWindowsManual"].define_schema().inputs}
    inputs = {
        "context_length": 4,
        "context_overlap": 2,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 0,
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
    }
    inputs = {key: value for key, value in inputs.items() if key in known}
    windows = stage.call("ContextWindowsManual", model=model, **inputs)[0]
    long = empty(stage, 10)
    expect_error(
        "IncompatibleInputsError",
        ["Context Windows", "ddim"],
        lambda: stage.latte_sampler(windows, latent_image=long, **given),
    )
    out = stage.latte_sampler(windows, latent_image=long, **{**given, "method": "ddim"})
    expect(out.shape[0] == 10 and bool(out.isfinite().all()))


def check_cancel_stops_ddpm_within_one_step(stage: Stage) -> None:
    import comfy.model_management as management

    model = load(stage)
    given = {**label(stage), "latent_image": empty(stage), "method": "ddpm", "steps": 6}
    fresh = stage.latte_sampler(model, **given)
    calls: list[int] = []

    def stop_at_second(apply: Any, told: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing()
        return apply(told["input"], told["timestep"], **told["c"])

    stopped = model.clone()
    stopped.set_model_unet_function_wrapper(stop_at_second)
    expect_error("InterruptProcessingException", [], lambda: stage.latte_sampler(stopped, **given))
    expect(len(calls) == 2, calls)
    expect(torch.equal(stage.latte_sampler(model, **given), fresh), "the next run differs")
    known = model.model_options["transformer_options"]
    expect("latte_variance" not in known, "the run left something on the model")


def check_ddpm_shows_progress(stage: Stage) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, **_: seen.append((value, total))
    )
    try:
        ours(stage, "class", method="ddpm", step_string="12")
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    expect(seen and seen[-1] == (12, 12), seen)


def check_sizes_that_were_not_trained_are_warned_about_once(stage: Stage) -> None:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("latte")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        ours(stage, "class")
        expect(not records, records)
        ours(stage, "class", latent_image=empty(stage, 5, 128))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    expect(len(records) == 1 and "unproven" in records[0], records)


def check_bad_step_strings_are_refused(stage: Stage) -> None:
    for string in ("fast", "0", "ddim999", "1001", "-3"):
        expect_error(
            "InvalidInputError",
            ["step_string"],
            lambda s=string: ours(stage, "class", step_string=s),
        )
    for widget in ("method", "noise_order"):
        given = {widget: "other"}
        expect_error("InvalidInputError", [widget], lambda g=given: stage.latte_sampler(**g))


def check_unconditional_sampling_ignores_cfg(stage: Stage) -> None:
    expected = ours(stage, "none", cfg=1.0)
    expect(torch.equal(ours(stage, "none", cfg=9.0, **nothing(stage)), expected))
