"""The one loop all samplers run in: predict, step, check, tell."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..transfers import send
from ..types import StepCallback, StepInfo
from .finite import FiniteWatch
from .guidance import NoisePredictor
from .noise import StepNoise, make_step_noise
from .registry import make_stepper
from .settings import ScheduleSettings
from .stepper import AlphaTable, Stepper, noise_part, predict_denoised

CPU = torch.device("cpu")


@torch.no_grad()
def sample(
    predict: NoisePredictor,
    noise: Tensor,
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    eta: float = 0.0,
    step_noise: StepNoise | None = None,
    settings: ScheduleSettings | None = None,
    callback: StepCallback | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Tensor:
    """Turn unit noise into latents.

    Everything a run remembers lives in objects made here, so a run that fails leaves nothing to the
    next one. Arithmetic between model calls is float32 on `device`; where that is the model's, no
    step waits for it.

    Args:
        predict: (latents (B, 4, F, h, w) float32 on `device`, timesteps (B,) float32, all equal, on
            the CPU, where they are read without waiting) -> predicted noise, or noise and variance
            logits, on any device.
        noise: (B, 4, F, h, w) of unit variance; the sampler's own start scale is applied here.
        sampler: one of the ten names (`sampling.SAMPLER_NAMES`) or the reference's spelling.
        num_steps: steps; heun and kdpm2_ancestral call the model 2n - 1 times, pndm n + 9 times.
        eta: DDIM's share of noise per step, 0 .. 1.
        step_noise: noise of stochastic samplers; by default that of seed 0.
        settings: noise schedule; Latte-1's by default.
        callback: called after each model call; an exception it raises ends the run unchanged.
        compute_dtype: the model's dtype, named in the message if the run breaks.
        device: where the latents are between model calls.

    Returns:
        (B, 4, F, h, w) float32 latents on the CPU.

    Raises:
        InvalidInputError: for an unknown sampler, step count or eta.
        NonFiniteError: naming the first step whose latents hold NaN or infinity; on CUDA up to two
            steps later.
    """
    settings = settings or ScheduleSettings()
    step_noise = step_noise or make_step_noise(noise.shape, 0)
    stepper = make_stepper(sampler, num_steps, noise=step_noise, eta=eta, settings=settings)
    alphas = AlphaTable.from_tensor(settings.alphas_cumprod())
    latents = run_stepper(
        stepper,
        predict,
        noise,
        alphas=alphas,
        callback=callback,
        compute_dtype=compute_dtype,
        device=device,
    )
    return latents.to("cpu")


@torch.no_grad()
def run_stepper(
    stepper: Stepper,
    predict: NoisePredictor,
    start: Tensor,
    *,
    alphas: AlphaTable,
    callback: StepCallback | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Tensor:
    """Drive one run of any sampler; arguments and errors as in `sample`, latents on `device`.

    Args:
        stepper: the run, made for this call.
        predict: see `sample`.
        start: (B, 4, F, h, w) start noise of unit variance, or latents to be inverted.
        alphas: the schedule, for the clean latents that the callback is shown.
        callback: see `sample`.
        compute_dtype: see `sample`.
        device: see `sample`.
    """
    timesteps = stepper.timesteps
    watch = FiniteWatch()
    latents = send(start.detach().to(torch.float32), device) * stepper.initial_sigma
    for call, timestep in enumerate(timesteps):
        model_input = stepper.scale(latents, call)
        prediction = predict(model_input, torch.full((len(model_input),), timestep))
        prediction = prediction.to(device, torch.float32)
        latents = stepper.step(prediction, call, latents)
        _require_none(watch.add(call, latents), timesteps, compute_dtype)
        if callback is not None:
            denoised = predict_denoised(
                model_input, noise_part(prediction), alphas.between(timestep)
            )
            callback(
                StepInfo(step=call, num_steps=len(timesteps), timestep=timestep, denoised=denoised)
            )
    _require_none(watch.end(), timesteps, compute_dtype)
    return latents


def _require_none(broken: int | None, timesteps: list[float], dtype: torch.dtype) -> None:
    """Raise NonFiniteError for a broken step."""
    if broken is None:
        return
    name = str(dtype).removeprefix("torch.")
    advice = (
        "Try another attention backend, or check the weights file."
        if dtype == torch.float32
        else "Try bfloat16 or float32, or another attention backend."
    )
    raise NonFiniteError(
        f"Sampling stopped at step {broken + 1} of {len(timesteps)} (timestep "
        f"{timesteps[broken]:g}): the latents hold NaN or infinity. The model runs in {name}. "
        f"{advice} No video was written."
    )
