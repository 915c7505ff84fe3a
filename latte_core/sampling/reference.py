"""Latte without text sampled as its authors do (docs/model.md 2.9, 7.1)."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config.latte import LatteConfig
from ..config.t2v import LatteT2VConfig
from ..diffusion import SpacedDiffusion, check_eta
from ..errors import IncompatibleInputsError, InvalidInputError
from ..types import LATENT_CHANNELS, StepCallback
from .class_guidance import ClassModel, config_of, forward_with_guidance, null_class
from .guidance import NoisePredictor, uses_guidance
from .loop import run_stepper
from .noise import check_noise_order, make_step_noise
from .reference_noise import ReferenceStream, checked_noise
from .settings import ScheduleSettings
from .spaced import DdimInversion, NoiseOfStep, SpacedDdimStepper, SpacedDdpmStepper
from .stepper import AlphaTable, Stepper

METHODS = ("ddpm", "ddim")
Labels = Tensor | Sequence[int] | int

logger = logging.getLogger("latte")


def sample_reference(
    model: ClassModel,
    latents: Tensor,
    method: str = "ddpm",
    steps: str | int = "250",
    guidance_scale: float = 1.0,
    class_labels: Labels | None = None,
    eta: float = 0.0,
    seed: int | Sequence[int] = 0,
    noise: NoiseOfStep | None = None,
    callback: StepCallback | None = None,
    *,
    noise_order: str = "comfyui",
    temporal_attention: bool = True,
) -> Tensor:
    """Turn start noise into latents with the reference's own DDPM or DDIM.

    A model in training mode is put into evaluation mode for the run. Arithmetic between model
    calls is float32 on the model's device, with scalars from float64 tables.

    Args:
        model: a Latte; or, without guidance, any function of (latents, timesteps, class_labels).
        latents: (B, 4, F, h, w) start noise of unit variance.
        method: `ddpm`, with the variance the model learned, or `ddim`.
        steps: "250", "10,15,20" or "ddim50", see `space_timesteps`.
        guidance_scale: above 1 the class is followed more closely; 1 or less is off.
        class_labels: (B,), or one for all videos, 0 .. num_classes.
        eta: noise per step of ddim, 0 .. 1; ddpm has its own.
        seed: of the noise added at each step; one for all videos, or one for each.
        noise: step index, 0 for the first and noisiest step -> (B, 4, F, h, w), used as given in
            place of the seed's. It is called once for every step, for the last (which adds none)
            and for ddim without eta too, and under guidance for B videos as well.
        callback: called after each step; an exception it raises ends the run unchanged.
        noise_order: how the seed's step noise is drawn: `comfyui`, as in `Pipeline`; `reference`,
            as the authors' scripts draw it after start noise and labels (`ReferenceStream`).
        temporal_attention: off makes every frame a picture of its own.

    Returns:
        (B, 4, F, h, w) float32 latents on the device of `latents`.

    Raises:
        InvalidInputError: for a method, step string, scale, eta, seed or label that cannot be used.
        IncompatibleInputsError: for labels or guidance without classes, noise or labels that do
            not fit the latents, or a text-to-video model.
        NonFiniteError: at the first step whose latents hold NaN or infinity.
    """
    check_model(model, latents)
    is_guided = uses_guidance(guidance_scale)
    labels = _labels(class_labels, latents.shape[0])
    noise_of = checked_noise(
        noise or _seeded_noise(model, latents.shape, seed, noise_order, is_guided), latents.shape
    )
    stepper = _make_stepper(method, steps, check_eta(eta), noise_of)
    scale = guidance_scale if is_guided else None
    predict = _predictor(model, labels, scale, latents.shape, temporal_attention=temporal_attention)
    return _run(model, stepper, predict, latents, callback)


def invert_reference(
    model: ClassModel,
    latents: Tensor,
    steps: str | int = "250",
    class_labels: Labels | None = None,
    callback: StepCallback | None = None,
    *,
    temporal_attention: bool = True,
) -> Tensor:
    """Find noise from which DDIM with the same steps leads (nearly) back to the latents.

    Args:
        model, class_labels, temporal_attention: as for `sample_reference`, without guidance.
        latents: (B, 4, F, h, w) clean latents.
        steps: as for `sample_reference`, two timesteps at least.
        callback: called after each of the steps, one fewer than timesteps.

    Returns:
        (B, 4, F, h, w) float32 on the device of `latents`.

    Raises:
        InvalidInputError, IncompatibleInputsError, NonFiniteError: as `sample_reference`.
    """
    check_model(model, latents)
    labels = _labels(class_labels, latents.shape[0])
    diffusion = SpacedDiffusion.from_steps(steps)
    if len(diffusion.timesteps) < 2:
        raise InvalidInputError(
            f"steps is {steps!r}, a single timestep, but inversion goes from the first to the "
            "last one. Use two or more, such as '50'."
        )
    predict = _predictor(model, labels, None, latents.shape, temporal_attention=temporal_attention)
    return _run(model, DdimInversion(diffusion), predict, latents, callback)


def check_model(model: ClassModel, latents: Tensor) -> None:
    """Refuse what is no Latte's latents, and models steered by text.

    Raises:
        IncompatibleInputsError: saying what fits.
    """
    if isinstance(getattr(model, "config", None), LatteT2VConfig):
        raise IncompatibleInputsError(
            "This is a text-to-video model, which needs a prompt. Use Pipeline for it; "
            "sample_reference takes class-conditional and unconditional models."
        )
    if latents.ndim != 5 or latents.shape[1] != LATENT_CHANNELS:
        raise IncompatibleInputsError(
            f"The latents have shape {tuple(latents.shape)}, but they must be "
            f"(videos, {LATENT_CHANNELS}, frames, height, width)."
        )


def _labels(given: Labels | None, batch: int) -> Tensor | None:
    """Return labels (B,), or None; whether the model knows them it says itself."""
    if given is None:
        return None
    labels = torch.as_tensor(given)
    if labels.numel() == 1:
        return labels.reshape(1).expand(batch)
    if labels.shape != (batch,):
        raise IncompatibleInputsError(
            f"Class labels of shape {tuple(labels.shape)} were given for {batch} videos. Give one "
            "for each video, or a single one for all."
        )
    return labels


def _seeded_noise(
    model: ClassModel,
    shape: Sequence[int],
    seed: int | Sequence[int],
    noise_order: str,
    is_guided: bool,
) -> NoiseOfStep:
    """Return the noise that belongs to a seed whose start noise was drawn already."""
    if check_noise_order(noise_order) == "comfyui":
        drawn = make_step_noise(shape, seed)
        return lambda _: drawn.draw(shape)
    stream = ReferenceStream(shape, seed, is_guided=is_guided)
    stream.draw_start()
    if is_guided:
        stream.draw_labels(null_class(model))
    return stream


def _make_stepper(method: str, steps: str | int, eta: float, noise: NoiseOfStep) -> Stepper:
    chosen = str(method).strip().lower()
    if chosen not in METHODS:
        raise InvalidInputError(
            f"method is {method!r}, but it must be one of {', '.join(METHODS)}."
        )
    diffusion = SpacedDiffusion.from_steps(steps)
    if chosen == "ddpm":
        return SpacedDdpmStepper(diffusion, noise)
    return SpacedDdimStepper(diffusion, eta, noise)


def _predictor(
    model: ClassModel,
    labels: Tensor | None,
    scale: float | None,
    shape: Sequence[int],
    *,
    temporal_attention: bool,
) -> NoisePredictor:
    """Bind labels and size to the model; a scale of None is no guidance."""
    # parts of the batch are told apart, and labels checked, on the CPU: no step waits for a device
    labels = None if labels is None else labels.to("cpu")
    options: dict[str, Any] = {} if temporal_attention else {"enable_temporal_attention": False}
    make_tables = getattr(model, "place_tables", None)  # a Latte has it, other functions need not
    if make_tables is not None:
        options["places"] = make_tables(shape, _weight_of(model).device)
    if scale is not None:
        null_class(model)  # a model without one is refused before the first step

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        timesteps = timesteps.to(torch.long)
        if scale is None or labels is None:
            return model(latents, timesteps, labels, **options)  # misses labels it needs itself
        return forward_with_guidance(model, latents, timesteps, labels, scale, **options)

    return predict


def _run(
    model: ClassModel,
    stepper: Stepper,
    predict: NoisePredictor,
    latents: Tensor,
    callback: StepCallback | None,
) -> Tensor:
    config = config_of(model)
    if config is not None:
        warn_if_unproven(config, latents.shape)
    alphas = AlphaTable.from_tensor(ScheduleSettings().alphas_cumprod())
    weight = _weight_of(model)
    with _evaluating(model):
        result = run_stepper(
            stepper,
            predict,
            latents,
            alphas=alphas,
            callback=callback,
            compute_dtype=weight.dtype,
            device=weight.device,
        )
    return result.to(latents.device)


def _weight_of(model: ClassModel) -> Tensor:
    """Return one weight, for its device and type; a function without weights runs on the CPU."""
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next(weights, torch.empty(0))


@contextmanager
def _evaluating(model: ClassModel) -> Generator[None, None, None]:
    """Keep labels from being dropped at random, as they are in training."""
    if not (isinstance(model, nn.Module) and model.training):
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def warn_if_unproven(config: LatteConfig, shape: Sequence[int]) -> None:
    """Say once per run that the model was trained on another length or size.

    Args:
        config: of the model.
        shape: (B, 4, F, h, w) of the latents.
    """
    frames, height, width = shape[2:]
    trained = (config.num_frames if config.has_temporal else frames, *[config.input_size] * 2)
    if (frames, height, width) == trained:
        return
    logger.warning(
        "This Latte was trained on %d frames of %d x %d latent cells, but %d frames of %d x %d are "
        "asked for. Its position tables are computed anew; quality is unproven.",
        *trained,
        *(frames, height, width),
    )
