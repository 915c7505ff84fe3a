"""Latte's DDIM and DDPM as sampler functions of ComfyUI: one loop, and what each does in a step.

The state is the reference's variable z = x / sqrt(1 + sigma^2); scalars are Python floats. What a
run needs to remember lives in objects made here, for that run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ....latte_core.diffusion import Posterior
from ....latte_core.errors import IncompatibleInputsError, NonFiniteError
from ....latte_core.sampling.guidance import guide
from ..base.layout import fold_frames, unfold
from ..base.progress import check_cancelled
from ..model.hooks import TEMPORAL_ATTENTION, VARIANCE_COLLECTOR, VarianceCollector

DrawNoise = Callable[[Sequence[int]], Tensor]
"""Shape (B, 4, F, h, w) -> noise of one step, of that shape."""

Advance = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(step, z, model input, predicted clean latents) -> the next z, in the layout of the latents."""


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
    step_noise: DrawNoise | None = None,
    temporal_attention: bool = True,
) -> Tensor:
    """Run Latte's DDIM; the shape of a k-diffusion sampler function, for `KSAMPLER`.

    Source: Song et al., 2021, equation 12; docs/comfyui.md 6.
    """
    levels = levels_of(sigmas)

    def advance(step: int, z: Tensor, scaled: Tensor, denoised: Tensor) -> Tensor:
        sigma = levels[step]
        noise_pred = (scaled - denoised) / sigma
        alpha, alpha_next = alpha_of(sigma), alpha_of(levels[step + 1])
        ratio = max(1 - alpha / alpha_next, 0.0)
        spread = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * ratio)
        direction = math.sqrt(max(1 - alpha_next - spread**2, 0.0))
        z = math.sqrt(alpha_next) * denoised + direction * noise_pred
        if spread > 0 and step_noise is not None:
            z = z + spread * draw_like(step_noise, z)
        return z

    extra_args = with_options(extra_args, switches(temporal_attention))
    return follow(model, x, levels, extra_args, callback, advance)


@torch.no_grad()
def sample_ddpm(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: Any = None,
    *,
    step_noise: DrawNoise,
    variance_scale: float | None = None,
    takes_upper: bool = False,
    temporal_attention: bool = True,
) -> Tensor:
    """Run DDPM with the variance that the model learned, where it learned one; for `KSAMPLER`.

    Args:
        step_noise: noise of every step but the last.
        variance_scale: guidance of the variance, as text-to-video models have it; None takes that
            of the positive conditioning, as class-conditional models have it.
        takes_upper: which variance a model has that learned none, see `Posterior.deviation`.
        temporal_attention: off makes every frame a picture of its own.

    Source: Ho et al., 2020; Nichol & Dhariwal, 2021; docs/model.md 7.1.
    """
    levels = levels_of(sigmas)
    posterior = posterior_of(levels)
    collector = VarianceCollector()

    def advance(step: int, z: Tensor, scaled: Tensor, denoised: Tensor) -> Tensor:
        logits = variance_of(collector.take(), denoised, variance_scale)
        index = len(levels) - 2 - step
        z = posterior.mean(index, denoised, z)
        if posterior.ends_clean(index):
            return z
        noise = draw_like(step_noise, z)
        prediction = torch.cat([denoised, logits], dim=1)
        return z + posterior.deviation(index, prediction, takes_upper=takes_upper) * noise

    options = {**switches(temporal_attention), VARIANCE_COLLECTOR: collector}
    return follow(model, x, levels, with_options(extra_args, options), callback, advance)


def follow(
    model: Any,
    x: Tensor,
    levels: Sequence[float],
    extra_args: dict[str, Any],
    callback: Any,
    advance: Advance,
) -> Tensor:
    """Call the model at every noise level and `advance` the state; report, check and cancel.

    Args:
        model: what ComfyUI hands to a sampler function.
        x: start, at the first noise level.
        levels: sigmas, high to low.
        extra_args: for the model.
        callback: ComfyUI's, which shows progress and previews.
        advance: the step.
    """
    unit = x.new_ones([x.shape[0]])
    z = model.noise if is_zero(model.latent_image) else x / math.sqrt(1 + levels[0] ** 2)
    z = z.to(x)
    for step, sigma in enumerate(levels[:-1]):
        check_cancelled()
        scaled = z * math.sqrt(1 + sigma**2)
        denoised = model(scaled, unit * sigma, **extra_args)
        check_finite(denoised, step, sigma, model_dtype(model))
        z = advance(step, z, scaled, denoised)
        if callback is not None:
            shown = {"i": step, "x": scaled, "sigma": sigma, "sigma_hat": sigma}
            callback({**shown, "denoised": denoised})
    return z * math.sqrt(1 + levels[-1] ** 2)


def levels_of(sigmas: Tensor) -> list[float]:
    """Return noise levels as Python floats, without float64 on their device (R56)."""
    return [float(sigma) for sigma in sigmas.tolist()]


def alpha_of(sigma: float) -> float:
    """Return the cumulative alpha of a noise level; 1 at the end of a run."""
    return 1.0 / (1.0 + sigma * sigma)


def posterior_of(levels: Sequence[float]) -> Posterior:
    """Return the tables of a DDPM run over noise levels, which go down; the tables go up."""
    alphas = torch.tensor([alpha_of(sigma) for sigma in reversed(levels)], dtype=torch.float64)
    return Posterior(alphas[1:], alphas[:-1])


def is_zero(latent_image: Tensor | None) -> bool:
    """Whether a run starts from nothing but noise."""
    return latent_image is None or not bool(latent_image.any())


def switches(temporal_attention: bool) -> dict[str, Any]:
    """Return what tells the transformer to leave temporal attention out."""
    return {} if temporal_attention else {TEMPORAL_ATTENTION: False}


def with_options(extra_args: dict[str, Any] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return a sampler's arguments with more `transformer_options`; nothing given is changed."""
    given = dict(extra_args or {})
    if not options:
        return given
    model_options = comfy.model_patcher.create_model_options_clone(given.get("model_options", {}))
    known = model_options.get("transformer_options", {})
    model_options["transformer_options"] = {**known, **options}
    return {**given, "model_options": model_options}


def draw_like(step_noise: DrawNoise, z: Tensor) -> Tensor:
    """Draw one step's noise in the layout of `z`."""
    return unfold(step_noise(fold_frames(z, 1).shape), z.ndim).to(z)


def variance_of(
    calls: Sequence[tuple[list[int], Tensor]], denoised: Tensor, scale: float | None
) -> Tensor:
    """Return the variance logits of a step, in the layout of its latents.

    Args:
        calls: for each call of the model, which conditionings were stacked (0 positive, 1
            negative) and the variance of all of them.
        denoised: (T, 4, h, w) or (B, 4, T, h, w) predicted clean latents.
        scale: of guidance; None takes the variance of the positive conditionings alone.

    Returns:
        Their mean where several are combined; no channels if the model learned no variance.

    Raises:
        IncompatibleInputsError: if the model saw parts of the latents only.
    """
    parts: dict[int, list[Tensor]] = {}
    for conds, stacked in calls:
        for cond, part in zip(conds, stacked.chunk(len(conds)), strict=True):
            if part.shape[0] != denoised.shape[0] or part.shape[2:] != denoised.shape[2:]:
                raise IncompatibleInputsError(
                    "DDPM needs the variance of whole videos, but the model was called with parts "
                    f"of shape {tuple(part.shape)} of latents of shape {tuple(denoised.shape)}. "
                    "Remove Context Windows and area conditioning, or use method ddim."
                )
            parts.setdefault(cond, []).append(part.to(denoised))
    means = {cond: torch.stack(found).mean(0) for cond, found in parts.items()}
    if scale is None or 1 not in means:
        return means[0]
    return guide(means[1], means[0], scale)


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
