"""Latte's DDIM inside ComfyUI: its noise, its timesteps, and the loop in its own variables."""

from __future__ import annotations

import logging
import math
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...latte_core.errors import InvalidInputError, NonFiniteError
from ...latte_core.sampling.noise import StepNoise, generator_for, make_noise, make_step_noise
from ...latte_core.sampling.settings import TRAIN_STEPS, ScheduleSettings
from .memory import is_out_of_memory
from .model import fold_frames, unfold
from .progress import check_cancelled

logger = logging.getLogger("latte")

TRAINED_FRAMES = 16
WIDGET_KEYS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def latte_timesteps(steps: int, denoise: float) -> list[int]:
    """Return the training-time steps to visit, leading spacing without offset, highest first.

    Below a denoise of 1 the run is the end of a longer one, as in KSampler.

    Raises:
        InvalidInputError: if the longer run has more than 1000 steps.
    """
    total = max(steps, int(steps / denoise))
    if total > TRAIN_STEPS:
        raise InvalidInputError(
            f"steps is {steps} and denoise is {denoise:g}, which is the end of a run of {total} "
            f"steps, but Latte has {TRAIN_STEPS} noise levels. Lower steps or raise denoise."
        )
    return ScheduleSettings().timesteps(total)[-steps:]


def latte_sigmas(model: Any, steps: int, denoise: float) -> Tensor:
    """Return the (steps + 1,) noise levels of those timesteps, ending in 0."""
    table = model.get_model_object("model_sampling").sigmas.float().cpu()
    return torch.cat([table[latte_timesteps(steps, denoise)], torch.zeros(1)])


class LatteNoiseSource:
    """What a NOISE socket carries: start noise for a latent in either layout.

    Args:
        seed: 0 .. 2^64 - 1.
        noise_order: `comfyui` or `reference`, see `make_noise`.
    """

    def __init__(self, seed: int, noise_order: str) -> None:
        self.seed = seed
        self.noise_order = noise_order

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Draw unit noise of the latent's shape without touching the global random state."""
        samples = input_latent["samples"]
        indices = input_latent.get("batch_index")
        if samples.ndim == 4 and indices is not None and self.noise_order == "comfyui":
            return comfy.sample.prepare_noise_inner(samples, generator_for(self.seed), indices)
        shape = fold_frames(samples, 1).shape
        return unfold(make_noise(shape, self.seed, self.noise_order), samples.ndim)


def is_zero(latent_image: Tensor | None) -> bool:
    """Whether a run starts from nothing but noise."""
    return latent_image is None or not bool(latent_image.any())


def alpha_of(sigma: float) -> float:
    """Return the cumulative alpha of a noise level; 1 at the end of a run."""
    return 1.0 / (1.0 + sigma * sigma)


def check_finite(denoised: Tensor, step: int, sigma: float, dtype: Any) -> None:
    """Stop at the step that broke (one reduction per step).

    Raises:
        NonFiniteError: naming step, noise level, dtype and what to try.
    """
    if bool(torch.isfinite(denoised).all()):
        return
    raise NonFiniteError(
        f"NaN or infinity appeared at step {step + 1} (sigma {sigma:.4g}, model in {dtype}). No "
        "video was made. Try weight_dtype bf16 or fp32 in the model loader, another attention "
        "(--use-pytorch-cross-attention), or remove model patches."
    )


def model_dtype(model: Any) -> Any:
    """Return the dtype a wrapped model computes in, for messages."""
    inner = model.inner_model.inner_model
    return inner.manual_cast_dtype or inner.get_dtype()


@torch.no_grad()
def sample_ddim(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: Any = None,
    *,
    eta: float = 0.0,
    step_noise: StepNoise | None = None,
) -> Tensor:
    """Run Latte's DDIM; the shape of a k-diffusion sampler function, for `KSAMPLER`.

    The state is the reference's variable z = x / sqrt(1 + sigma^2); scalars are Python floats.
    Source: Song et al., 2021, equation 12; comfyui.md 1.13.
    """
    extra_args = extra_args or {}
    levels = [float(sigma) for sigma in sigmas.double()]
    unit = x.new_ones([x.shape[0]])
    z = model.noise if is_zero(model.latent_image) else x / math.sqrt(1 + levels[0] ** 2)
    z = z.to(x)
    for step, (sigma, sigma_next) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        check_cancelled()
        scaled = z * math.sqrt(1 + sigma**2)
        denoised = model(scaled, unit * sigma, **extra_args)
        check_finite(denoised, step, sigma, model_dtype(model))
        noise_pred = (scaled - denoised) / sigma
        alpha, alpha_next = alpha_of(sigma), alpha_of(sigma_next)
        ratio = max(1 - alpha / alpha_next, 0.0)
        spread = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * ratio)
        direction = math.sqrt(max(1 - alpha_next - spread**2, 0.0))
        z = math.sqrt(alpha_next) * denoised + direction * noise_pred
        if spread > 0 and step_noise is not None:
            z = z + spread * draw_like(step_noise, z)
        if callback is not None:
            shown = {"i": step, "x": scaled, "sigma": sigma, "sigma_hat": sigma}
            callback({**shown, "denoised": denoised})
    return z * math.sqrt(1 + levels[-1] ** 2)


def draw_like(step_noise: StepNoise, z: Tensor) -> Tensor:
    """Draw one step's noise in the layout of `z`."""
    return unfold(step_noise.draw(fold_frames(z, 1).shape), z.ndim).to(z)


def run_ddim(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    samples: Tensor,
    *,
    seed: int,
    steps: int,
    cfg: float,
    denoise: float,
    eta: float,
) -> dict[str, Any]:
    """Sample a LATENT with ComfyUI's guider, memory management, previews and cancel."""
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    warn_about_length(model, samples)
    noise = LatteNoiseSource(seed, "comfyui").generate_noise({**latent, "samples": samples})
    step_noise = make_step_noise(fold_frames(samples, 1).shape, seed) if eta > 0 else None
    sampler = comfy.samplers.KSAMPLER(
        sample_ddim, extra_options={"eta": eta, "step_noise": step_noise}
    )
    try:
        result = comfy.sample.sample_custom(
            model,
            noise,
            max(cfg, 1.0),  # parity: guidance is off at 1 and below
            sampler,
            latte_sigmas(model, steps, denoise),
            positive,
            negative,
            samples,
            noise_mask=latent.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            logger.error("Latte: out of memory while sampling latents %s.", tuple(samples.shape))
        raise
    kept = {key: value for key, value in latent.items() if key not in WIDGET_KEYS}
    return {**kept, "samples": result}


def warn_about_length(model: Any, samples: Tensor) -> None:
    """Say once per run that a long clip is better made in windows."""
    frames = fold_frames(samples, 1).shape[2]
    if frames > TRAINED_FRAMES and "context_handler" not in model.model_options:
        logger.warning(
            "Latte: %d frames were asked for, but the model was trained on %d. Motion may fall "
            'apart; add "Context Windows (Manual)" with length %d to the model.',
            frames,
            TRAINED_FRAMES,
            TRAINED_FRAMES,
        )
