"""Models and videos that a step cache is calibrated on: of prompts, of classes, or of neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...acceleration.calibrate import Example, HooksFor
from ...acceleration.schedule_file import ScheduleFile
from ...acceleration.settings import CacheSettings
from ...diffusion import SpacedDiffusion
from ...errors import InvalidInputError
from ...sampling import (
    NoisePredictor,
    ScheduleSettings,
    forward_with_guidance,
    guided_in_one_batch,
    make_noise,
    make_step_noise,
    make_stepper,
    uses_guidance,
)
from ...sampling.spaced import SpacedDdimStepper, SpacedDdpmStepper
from ...sampling.stepper import AlphaTable, Stepper, noise_part, predict_denoised
from ..classes.labels import Label, labels_of
from ..classes.pipeline import ClassPipeline
from ..text.inputs import TextInputs, make_conditions
from ..text.pipeline import Pipeline
from .calibration import CalibrationRun, Report, Subject, calibrate

TEXT_SAMPLER = "ddim"  # the one of `Pipeline` whose steps depend on nothing but their arguments


def calibrate_text(
    pipeline: Pipeline,
    prompts: Sequence[str],
    run: CalibrationRun,
    *,
    negative_prompt: str = "",
    report: Report | None = None,
) -> ScheduleFile:
    """Calibrate a text-to-video model with DDIM on a few prompts.

    Raises:
        InvalidInputError: for a value that cannot be used, or no prompt.
    """
    best, shape = pipeline.defaults, run.shape(pipeline.defaults)
    num_steps = best.num_steps if run.steps is None else whole_number(run.steps)
    scale = best.guidance_scale if run.guidance_scale is None else run.guidance_scale
    text = TextInputs(
        prompt=list(prompts),
        negative_prompt=negative_prompt,
        prompt_embeds=None,
        negative_embeds=None,
        is_guided=uses_guidance(scale),
        clean_caption=True,
        mask_feature=True,
    )
    text.count()
    conditions = make_conditions(text, pipeline.parts.text_encoder)

    def example(index: int) -> Example:
        size, settings = shape.latent_size(), pipeline.parts.settings
        predict = partial(_predict_text, pipeline, *conditions[index], scale)
        stepper = make_stepper(
            TEXT_SAMPLER,
            num_steps,
            noise=make_step_noise(size, run.seed + index),
            settings=settings,
        )
        return _example(predict, make_noise(size, run.seed + index, "comfyui"), stepper, settings)

    def make_frames(index: int, cache: CacheSettings | None) -> Tensor:
        made = pipeline(
            prompts[index],
            negative_prompt,
            shape.num_frames,
            shape.height,
            shape.width,
            num_steps,
            scale,
            TEXT_SAMPLER,
            seed=run.seed + index,
            cache=cache,
        )
        assert made.frames is not None
        return made.frames

    subject = Subject(
        model=pipeline.parts.transformer,
        examples=[partial(example, index) for index in range(len(conditions))],
        make_frames=make_frames,
        sampler=TEXT_SAMPLER,
        num_steps=num_steps,
        guidance_scale=scale,
    )
    return calibrate(subject, run, report=report)


def whole_number(steps: str) -> int:
    """Return a number of steps from its text.

    Raises:
        InvalidInputError: for another step string, which only class models follow.
    """
    if not steps.isdecimal():
        raise InvalidInputError(
            f"The steps are {steps!r}, but a text-to-video model takes a whole number, such as 50."
        )
    return int(steps)


def calibrate_classes(
    pipeline: ClassPipeline,
    labels: Sequence[Label | None],
    run: CalibrationRun,
    *,
    report: Report | None = None,
) -> ScheduleFile:
    """Calibrate a class-conditional or unconditional model.

    Args:
        pipeline: the model.
        labels: one for each video: classes, or None for unconditional models.
        run: settings.
        report: told of progress.

    Raises:
        InvalidInputError: for a value that cannot be used.
        IncompatibleInputsError: for labels that do not fit the model.
    """
    settled = pipeline.settle(run.method, run.steps, run.guidance_scale)
    shape = run.shape(pipeline.defaults)
    seeds = [run.seed + index for index in range(len(labels))]
    named = [label for label in labels if label is not None]
    model = pipeline.parts.transformer
    numbers = labels_of(named or None, seeds, len(labels), model.config, pipeline.class_names)
    diffusion = SpacedDiffusion.from_steps(settled.steps)

    def example(index: int) -> Example:
        size = shape.latent_size()
        drawn = make_step_noise(size, seeds[index])
        noises = [drawn.draw(size) for _ in diffusion.timesteps] if settled.method == "ddpm" else []
        stepper: Stepper
        if settled.method == "ddpm":
            stepper = SpacedDdpmStepper(diffusion, lambda call: noises[call])
        else:
            stepper = SpacedDdimStepper(diffusion, 0.0, lambda _: torch.zeros(size))
        number = None if numbers is None else numbers[index]
        predict = partial(_predict_class, model, number, settled.guidance_scale)
        start = make_noise(size, seeds[index], "comfyui")
        return _example(predict, start, stepper, ScheduleSettings())

    def make_frames(index: int, cache: CacheSettings | None) -> Tensor:
        made = pipeline(
            None if numbers is None else numbers[index],
            shape.num_frames,
            shape.height,
            shape.width,
            settled.method,
            settled.steps,
            settled.guidance_scale,
            seed=seeds[index],
            cache=cache,
        )
        assert made.frames is not None
        return made.frames

    subject = Subject(
        model=model,
        examples=[partial(example, index) for index in range(len(labels))],
        make_frames=make_frames,
        sampler=settled.method,
        num_steps=len(diffusion.timesteps),
        guidance_scale=settled.guidance_scale,
    )
    return calibrate(subject, run, report=report)


def _example(
    predict: Callable[[Tensor, float, HooksFor], Tensor],
    start: Tensor,
    stepper: Stepper,
    settings: ScheduleSettings,
) -> Example:
    alphas = AlphaTable.from_tensor(settings.alphas_cumprod())

    def denoise(given: Tensor, prediction: Tensor, timestep: float) -> Tensor:
        return predict_denoised(given, noise_part(prediction), alphas.between(timestep))

    return Example(predict=predict, start=start, sampler=stepper, denoise=denoise)


def _predict_text(
    pipeline: Pipeline,
    positive: Tensor,
    negative: Tensor | None,
    scale: float,
    latents: Tensor,
    timestep: float,
    hooks_for: HooksFor,
) -> Tensor:
    """Predict under guidance in one batch, as `Pipeline` does."""
    transformer: Any = pipeline.parts.transformer
    device = next(transformer.parameters()).device
    parts = [positive] if negative is None else [negative, positive]
    hooks = hooks_for(("negative", "positive")[-len(parts) :])
    context = torch.cat(parts).to(device)

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        return transformer(latents.to(device), timesteps.to(device), context, hooks=hooks)

    guided: NoisePredictor = predict if negative is None else guided_in_one_batch(predict, scale)
    return guided(latents, torch.full((latents.shape[0],), timestep))


def _predict_class(
    model: Any,
    label: int | None,
    scale: float,
    latents: Tensor,
    timestep: float,
    hooks_for: HooksFor,
) -> Tensor:
    """Predict as `sample_reference` does."""
    device = next(model.parameters()).device
    latents = latents.to(device)
    timesteps = torch.full((latents.shape[0],), int(timestep), device=device)
    labels = None if label is None else torch.full_like(timesteps, label)
    if labels is None or not uses_guidance(scale):
        return model(latents, timesteps, labels, hooks=hooks_for(("class",)))
    hooks = hooks_for(("class", "null"))
    return forward_with_guidance(model, latents, timesteps, labels, scale, hooks=hooks)
