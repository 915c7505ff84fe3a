"""Eight samplers as diffusers schedulers, set up for Latte.

The reference builds each from the model's scheduler file with the variance type of its yaml, which
breaks the two DPM-Solver classes; that option is left out here (docs/model.md 7.6).
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import MissingDependencyError
from ..transfers import send
from .names import check_steps
from .noise import StepNoise
from .settings import TRAIN_STEPS, ScheduleSettings
from .stepper import noise_part


class DiffusersStepper:
    """One run of a diffusers scheduler.

    Its arithmetic runs in float32 where the latents are. Its tables stay on the CPU: an entry is a
    number there, which a step of any device takes along without waiting. Random samplers draw from
    the given generators only.

    Args:
        reference_name: the class name without "Scheduler".
        settings: noise schedule and spacing; classes without a spacing option ignore the latter.
        num_steps: steps of the run.
        noise: generators and draw order of per-step noise.

    Raises:
        InvalidInputError: for a step count out of range, or an offset that leads beyond 999.
        MissingDependencyError: if diffusers is not installed.
    """

    def __init__(
        self, reference_name: str, settings: ScheduleSettings, num_steps: int, noise: StepNoise
    ) -> None:
        check_steps(reference_name, num_steps)
        self._scheduler = _build(reference_name, settings)
        self._scheduler.set_timesteps(num_steps, device="cpu")
        settings.check_highest(max(self.timesteps), num_steps)
        self._noise = noise
        self._extra: dict[str, Any] = {}
        if "generator" in inspect.signature(self._scheduler.step).parameters:
            self._extra["generator"] = list(noise.generators)

    @property
    def timesteps(self) -> list[float]:
        return [float(timestep) for timestep in self._scheduler.timesteps]

    @property
    def initial_sigma(self) -> float:
        return float(self._scheduler.init_noise_sigma)

    def scale(self, latents: Tensor, call: int) -> Tensor:
        scaled: Tensor = self._scheduler.scale_model_input(latents, self._scheduler.timesteps[call])
        return scaled

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        arrange = self._noise.arrange
        with NoiseSent(latents.device):
            following: Tensor = self._scheduler.step(
                arrange(noise_part(prediction)),
                self._scheduler.timesteps[call],
                arrange(latents),
                return_dict=False,
                **self._extra,
            )[0]
        return arrange(following)


class NoiseSent(TorchFunctionMode):
    """Sends what `torch.randn` draws on the CPU to a device at once.

    A scheduler given generators of the CPU draws there and copies to the device of the latents, for
    which it waits; what is there already it leaves as it is.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return send(made, self._device) if func is torch.randn else made


def _build(reference_name: str, settings: ScheduleSettings) -> Any:
    try:
        module = importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingDependencyError(
            f"The sampler {reference_name} needs the package diffusers, which is not installed. "
            "Run: pip install diffusers. The samplers ddim and ddpm work without it."
        ) from error
    scheduler_class = getattr(module, f"{reference_name}Scheduler")
    options: dict[str, Any] = {
        "num_train_timesteps": TRAIN_STEPS,
        "beta_start": settings.beta_start,
        "beta_end": settings.beta_end,
        "beta_schedule": settings.beta_schedule,
        "timestep_spacing": settings.timestep_spacing,
        "steps_offset": settings.steps_offset,
        "lower_order_final": True,
        "clip_sample": settings.clip_range is not None,
        "clip_sample_range": settings.clip_range or 1.0,
    }
    if settings.set_alpha_to_one is not None:
        options["set_alpha_to_one"] = settings.set_alpha_to_one
    accepted = inspect.signature(scheduler_class.__init__).parameters
    return scheduler_class(**{key: value for key, value in options.items() if key in accepted})
