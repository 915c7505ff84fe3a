"""Checks that sampling agrees: Latte Sampler, stock samplers and latte_core."""

from __future__ import annotations

import copy
from typing import Any

import torch
from host import STARTER, Stage, expect, expect_error, relative

SCALING = 0.18215


def custom_sample(stage: Stage, sampler: Any, steps: int, seed: int, cfg: float) -> torch.Tensor:
    """Run SamplerCustomAdvanced with Latte Noise and Latte Scheduler."""
    guider = stage.call(
        "CFGGuider", model=stage.model, positive=stage.positive, negative=stage.negative, cfg=cfg
    )[0]
    return stage.call(
        "SamplerCustomAdvanced",
        noise=stage.call("LatteNoise", noise_seed=seed, noise_order="comfyui")[0],
        guider=guider,
        sampler=sampler,
        sigmas=stage.call("LatteScheduler", model=stage.model, steps=steps, denoise=1.0)[0],
        latent_image=stage.latent(frames=6),
    )[0]["samples"]


def core_sample(stage: Stage, steps: int, seed: int, cfg: float, eta: float) -> torch.Tensor:
    """Run latte_core's loop on the same text; returns (F, 4, h, w) unscaled as ComfyUI keeps it."""
    core = stage.part("latte_core.checkpoint.loading.loader").load_transformer(STARTER)
    noise_part = stage.part("latte_core.sampling.noise")
    guidance = stage.part("latte_core.sampling.guidance")
    text = torch.cat([stage.negative[0][0], stage.positive[0][0]])
    shape = (1, 4, 6, 8, 8)

    def predict(latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return core(latents, steps, text)

    latents = stage.part("latte_core.sampling.loop").sample(
        guidance.guided_in_one_batch(predict, cfg),
        noise_part.make_noise(shape, seed),
        num_steps=steps,
        eta=eta,
        step_noise=noise_part.make_step_noise(shape, seed),
    )
    return latents[0].transpose(0, 1) / SCALING


def check_latte_sampler_equals_latte_core(stage: Stage) -> float:
    found = stage.latte_sampler(steps=10, cfg=7.5, seed=3, latent_image=stage.latent(frames=6))
    error = relative(found, core_sample(stage, 10, 3, 7.5, 0.0))
    expect(error < 1e-4, error)
    return error


def check_eta_draws_the_noise_of_latte_core(stage: Stage) -> float:
    latent = stage.latent(frames=6)
    found = stage.latte_sampler(steps=8, cfg=3.0, seed=3, eta=0.7, latent_image=latent)
    error = relative(found, core_sample(stage, 8, 3, 3.0, 0.7))
    expect(error < 1e-4, error)
    return error


def check_stock_euler_agrees_with_latte_sampler(stage: Stage) -> float:
    euler = stage.call("KSamplerSelect", sampler_name="euler")[0]
    found = custom_sample(stage, euler, 20, 5, 7.5)
    expected = stage.latte_sampler(steps=20, cfg=7.5, seed=5, latent_image=stage.latent(frames=6))
    error = float((found - expected).abs().max() / (expected.max() - expected.min()))
    expect(error < 1e-3, error)
    return error


def check_latte_noise_is_what_ksampler_draws(stage: Stage) -> None:
    import comfy.sample

    latent = stage.latent(frames=5)
    source = stage.call("LatteNoise", noise_seed=11, noise_order="comfyui")[0]
    before = torch.get_rng_state()
    drawn = source.generate_noise(latent)
    expect(torch.equal(before, torch.get_rng_state()), "the global random state moved")
    expect(torch.equal(drawn, comfy.sample.prepare_noise(latent["samples"], 11)))
    picked = {**latent, "batch_index": [4, 2, 2, 0, 1]}
    expected = comfy.sample.prepare_noise(latent["samples"], 11, picked["batch_index"])
    expect(torch.equal(source.generate_noise(picked), expected))


def check_reference_order_draws_channels_first(stage: Stage) -> None:
    source = stage.call("LatteNoise", noise_seed=11, noise_order="reference")[0]
    drawn = source.generate_noise(stage.latent(frames=5))
    generator = torch.Generator().manual_seed(11)
    expected = torch.randn((1, 4, 5, 8, 8), generator=generator)[0].transpose(0, 1)
    expect(torch.equal(drawn, expected))


def check_whole_videos_sample_like_batches_of_frames(stage: Stage) -> None:
    flat = stage.latte_sampler(latent_image={"samples": torch.zeros(4, 4, 8, 8)})
    whole = stage.latte_sampler(latent_image={"samples": torch.zeros(1, 4, 4, 8, 8)})
    expect(whole.shape == (1, 4, 4, 8, 8))
    expect(relative(whole[0].transpose(0, 1), flat) < 1e-5)
    pair = stage.latte_sampler(latent_image={"samples": torch.zeros(2, 4, 4, 8, 8)})
    expect(relative(pair[:1], whole) < 1e-5)


def check_every_named_stock_sampler_runs(stage: Stage) -> None:
    seen = {name: stage.ksampler(sampler_name=name) for name in SAMPLERS}
    for name, samples in seen.items():
        expect(samples.shape == (4, 4, 8, 8) and bool(samples.isfinite().all()), name)


SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "lcm", "ddim", "euler_ancestral")


def check_denoise_below_one_keeps_the_input(stage: Stage) -> None:
    start = {"samples": torch.randn(4, 4, 8, 8)}
    little = stage.latte_sampler(latent_image=start, denoise=0.01, steps=1)
    expect(relative(little, start["samples"]) < 0.2, relative(little, start["samples"]))


def check_noise_mask_keeps_frames(stage: Stage) -> None:
    start = {"samples": torch.randn(4, 4, 8, 8)}
    mask = torch.ones(4, 64, 64)
    mask[0] = 0
    masked = stage.call("SetLatentNoiseMask", samples=start, mask=mask)[0]
    for sample in (stage.ksampler, stage.latte_sampler):
        out = sample(latent_image=masked)
        expect(relative(out[0], start["samples"][0]) < 1e-5, sample.__name__)
        expect(relative(out[1:], start["samples"][1:]) > 0.01, sample.__name__)


def check_cancel_stops_within_one_step(stage: Stage) -> None:
    import comfy.model_management as management

    fresh = stage.latte_sampler(steps=6)
    calls: list[int] = []

    def stop_at_second(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    stopped = stage.model.clone()
    stopped.set_model_unet_function_wrapper(stop_at_second)
    expect_error("InterruptProcessingException", [], lambda: stage.latte_sampler(stopped, steps=6))
    expect(len(calls) == 2, calls)
    expect(torch.equal(stage.latte_sampler(steps=6), fresh), "the next run differs")


def check_cancel_stops_decoding_and_encoding(stage: Stage) -> None:
    import comfy.model_management as management

    latents = {"samples": torch.randn(6, 4, 8, 8)}
    management.interrupt_current_processing()
    expect_error(
        "InterruptProcessingException",
        [],
        lambda: stage.call("LatteVAEDecode", samples=latents, vae=stage.vae, chunk_frames=2),
    )
    management.interrupt_current_processing()
    expect_error("InterruptProcessingException", [], lambda: stage.prompts("a"))


def check_nan_stops_at_its_step(stage: Stage) -> None:
    calls: list[int] = []

    def broken(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        out = apply(given["input"], given["timestep"], **given["c"])
        return out * float("nan") if len(calls) == 2 else out

    model = stage.model.clone()
    model.set_model_unet_function_wrapper(broken)
    expect_error("NonFiniteError", ["step 2", "fp32"], lambda: stage.latte_sampler(model, steps=5))
    expect(len(calls) == 2, calls)


def check_out_of_memory_keeps_its_type(stage: Stage) -> None:
    def exhausted(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    model = stage.model.clone()
    model.set_model_unet_function_wrapper(exhausted)
    expect_error("OutOfMemoryError", ["no memory"], lambda: stage.latte_sampler(model))


def check_nodes_leave_their_inputs_alone(stage: Stage) -> None:
    latent = {"samples": torch.randn(4, 4, 8, 8), "noise_mask": torch.ones(4, 64, 64)}
    conds = (stage.positive, stage.negative)
    before = copy.deepcopy((latent, conds))
    weights = {k: v.clone() for k, v in stage.model.model.state_dict().items()}
    options = copy.deepcopy(stage.model.model_options)
    first = stage.latte_sampler(latent_image=latent)
    stage.call("LatteVAEDecode", samples=latent, vae=stage.vae, chunk_frames=0)
    second = stage.latte_sampler(latent_image=latent)
    expect(torch.equal(first, second), "two runs differ")
    for key, value in before[0].items():
        expect(torch.equal(latent[key], value), key)
    for now, then in zip(conds, before[1], strict=True):
        expect(torch.equal(now[0][0], then[0][0]) and now[0][1] == then[0][1])
    expect(options == stage.model.model_options)
    for key, value in stage.model.model.state_dict().items():
        expect(torch.equal(value, weights[key]), key)


def check_preview_and_progress_come(stage: Stage) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, **_: seen.append((value, total))
    )
    try:
        stage.latte_sampler(steps=4)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    steps = [value for value, total in seen if total == 4]
    expect(steps == sorted(steps) and steps[-1] == 4 and len(steps) >= 2, seen)
