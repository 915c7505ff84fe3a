"""A run of Latte Sampler inside ComfyUI: its noise, its timesteps, and the steps between them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.devices import is_out_of_memory
from ....latte_core.diffusion import space_timesteps
from ....latte_core.errors import InvalidInputError
from ....latte_core.sampling.guidance import uses_guidance
from ....latte_core.sampling.noise import generator_for, make_noise, make_step_noise
from ....latte_core.sampling.reference import warn_if_unproven
from ....latte_core.sampling.reference_noise import ReferenceStream
from ....latte_core.sampling.settings import TRAIN_STEPS, ScheduleSettings
from ..base.conditions import CLASS, Config, kind_read
from ..base.layout import fold_frames, unfold
from ..base.sockets import config_of
from .sampler_functions import DrawNoise, sample_ddim, sample_ddpm

logger = logging.getLogger("latte")

TRAINED_FRAMES = 16
WIDGET_KEYS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What the widgets of Latte Sampler say.

    Args:
        seed, steps, cfg, denoise, eta: the widgets.
        method: `ddim` or `ddpm`.
        step_string: the reference's way to say which timesteps are visited, or "" for `steps`.
        noise_order: `comfyui` or `reference`.
        temporal_attention: off makes every frame a picture of its own.
    """

    seed: int
    steps: int
    cfg: float
    denoise: float
    eta: float = 0.0
    method: str = "ddim"
    step_string: str = ""
    noise_order: str = "comfyui"
    temporal_attention: bool = True

    def guidance(self, config: Config) -> float | None:
        """Return the guidance scale; None where there is no guidance."""
        has_negative = isinstance(config, LatteT2VConfig) or kind_read(config) == CLASS
        return self.cfg if has_negative and uses_guidance(self.cfg) else None


def latte_timesteps(
    config: Config, steps: int, denoise: float, step_string: str = ""
) -> tuple[int, ...]:
    """Return the training-time steps to visit, highest first, as the authors space them.

    Text-to-video models have leading spacing without offset, the others rounded distances from
    999 to 0. Below a denoise of 1 the run is the end of a longer one, as in KSampler.

    Args:
        config: of the model.
        steps: how many to visit.
        denoise: 0.01 .. 1.
        step_string: "250", "10,15,20" or "ddim50" in the place of `steps`, for a denoise of 1; ""
            for none.

    Raises:
        InvalidInputError: if the longer run has more than 1000 steps, or for a bad string.
    """
    if step_string.strip():
        visits = visits_of(step_string)
        return visits[: max(round(len(visits) * denoise), 1)][::-1]
    total = max(steps, int(steps / denoise))
    if total > TRAIN_STEPS:
        raise InvalidInputError(
            f"steps is {steps} and denoise is {denoise:g}, which is the end of a run of {total} "
            f"steps, but Latte has {TRAIN_STEPS} noise levels. Lower steps or raise denoise."
        )
    if isinstance(config, LatteT2VConfig):
        return tuple(ScheduleSettings().timesteps(total)[-steps:])
    return space_timesteps(total)[:steps][::-1]


def visits_of(step_string: str) -> tuple[int, ...]:
    """Return the timesteps of a step string, lowest first.

    Raises:
        InvalidInputError: naming the widget, for another text.
    """
    try:
        return space_timesteps(step_string)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"The step_string of Latte Sampler cannot be used: {error} Leave it empty to use the "
            "number of steps."
        ) from error


def latte_sigmas(model: Any, steps: int, denoise: float, step_string: str = "") -> Tensor:
    """Return the noise levels of those timesteps, ending in 0: one more than there are steps."""
    table = model.get_model_object("model_sampling").sigmas.float().cpu()
    visits = latte_timesteps(config_of(model), steps, denoise, step_string)
    return torch.cat([table[list(visits)], torch.zeros(1)])


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


def noise_of_run(
    config: Config, latent: dict[str, Any], settings: RunSettings
) -> tuple[Tensor, DrawNoise]:
    """Return the start noise of a run, in the layout of the latent, and what draws each step's.

    In reference order both follow the authors' pipeline for text-to-video models, and their
    sampling scripts for the others.
    """
    samples, seed, order = latent["samples"], settings.seed, settings.noise_order
    shape = fold_frames(samples, 1).shape
    if isinstance(config, LatteT2VConfig) or order != "reference":
        start = LatteNoiseSource(seed, order).generate_noise(latent)
        return start, make_step_noise(shape, seed, order).draw
    is_guided = settings.guidance(config) is not None
    stream = ReferenceStream(shape, seed, is_guided=is_guided)
    start = unfold(stream.draw_start(), samples.ndim)
    if is_guided:
        stream.draw_labels(config.num_classes)
    return start, lambda _: stream(0)


def make_sampler(config: Config, settings: RunSettings, step_noise: DrawNoise) -> Any:
    """Return what a SAMPLER socket carries, for one run."""
    options: dict[str, Any] = {
        "step_noise": step_noise,
        "temporal_attention": settings.temporal_attention,
    }
    if settings.method == "ddim":
        return comfy.samplers.KSAMPLER(sample_ddim, extra_options={**options, "eta": settings.eta})
    # parity: text-to-video guides all channels, class-conditional models the noise alone; without
    # a learned variance diffusers takes the lower bound, and the authors' own process the upper
    is_guided = isinstance(config, LatteT2VConfig)
    options["variance_scale"] = settings.guidance(config) if is_guided else None
    options["takes_upper"] = not is_guided
    return comfy.samplers.KSAMPLER(sample_ddpm, extra_options=options)


def run_sampler(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    samples: Tensor,
    settings: RunSettings,
) -> dict[str, Any]:
    """Sample a LATENT with ComfyUI's guider, memory management, previews and cancel."""
    config = config_of(model)
    sigmas = latte_sigmas(model, settings.steps, settings.denoise, settings.step_string)
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    warn_about_size(model, config, samples)
    noise, step_noise = noise_of_run(config, {**latent, "samples": samples}, settings)
    try:
        result = comfy.sample.sample_custom(
            model,
            noise,
            settings.guidance(config) or 1.0,  # parity: guidance is off at 1 and below
            make_sampler(config, settings, step_noise),
            sigmas,
            positive,
            negative,
            samples,
            noise_mask=latent.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=settings.seed,
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            logger.error("Latte: out of memory while sampling latents %s.", tuple(samples.shape))
        raise
    kept = {key: value for key, value in latent.items() if key not in WIDGET_KEYS}
    return {**kept, "samples": result}


def warn_about_size(model: Any, config: Config, samples: Tensor) -> None:
    """Say once per run that a clip is longer, or of another size, than the model was trained on."""
    shape = fold_frames(samples, 1).shape
    has_windows = "context_handler" in model.model_options
    if not isinstance(config, LatteT2VConfig):
        if not has_windows:
            warn_if_unproven(config, shape)
        return
    if shape[2] > TRAINED_FRAMES and not has_windows:
        logger.warning(
            "Latte: %d frames were asked for, but the model was trained on %d. Motion may fall "
            'apart; add "Context Windows (Manual)" with length %d to the model.',
            shape[2],
            TRAINED_FRAMES,
            TRAINED_FRAMES,
        )
