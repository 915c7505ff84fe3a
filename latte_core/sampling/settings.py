"""The noise schedule Latte was trained on, and how sampling timesteps are picked from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checks import check_integer, is_number
from ..diffusion.betas import (
    BETA_END,
    BETA_START,
    TRAIN_STEPS,
    alphas_cumprod_of,
    linear_betas,
    scaled_linear_betas,
)
from ..errors import InvalidInputError

BETA_SCHEDULES = ("linear", "scaled_linear")
SPACINGS = ("leading", "linspace", "trailing")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSettings:
    """Noise schedule and timestep spacing; the defaults are Latte-1's published ones.

    Args:
        beta_start, beta_end: ends of the schedule, 0 < start <= end < 1.
        beta_schedule: `linear` in beta (Latte), or `scaled_linear`, linear in its square root.
        timestep_spacing: `leading` (980, 960, ... 0 for 50 steps), `linspace` or `trailing`.
        steps_offset: added to every timestep of `leading`.
        clip_range: clamp predicted clean latents to [-range, range]; Latte does not clip.
        set_alpha_to_one: whether the last step ends at clean latents (True) or at the first noise
            level; None leaves it to the sampler, which is True for ddim and False for pndm.

    Raises:
        InvalidInputError: for a value that has no meaning.

    Source: Latte-1's scheduler_config.json (docs/model.md 7.5).
    """

    beta_start: float = BETA_START
    beta_end: float = BETA_END
    beta_schedule: str = "linear"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    clip_range: float | None = None
    set_alpha_to_one: bool | None = None

    def __post_init__(self) -> None:
        ends = (self.beta_start, self.beta_end)
        if not all(map(is_number, ends)) or not 0 < ends[0] <= ends[1] < 1:
            raise InvalidInputError(
                f"The scheduler config says beta_start = {self.beta_start!r} and beta_end = "
                f"{self.beta_end!r}, but 0 < beta_start <= beta_end < 1 must hold. "
                "Latte uses 0.0001 and 0.02."
            )
        _check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        _check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        check_integer("steps_offset", self.steps_offset, 0, 10)
        clip = self.clip_range
        if clip is not None and not (is_number(clip) and 0 < clip < float("inf")):
            raise InvalidInputError(
                f"The scheduler config says clip_sample_range = {self.clip_range!r}, but it must "
                "be above 0. Latte uses clip_sample = false."
            )
        if self.set_alpha_to_one not in (True, False, None):
            raise InvalidInputError(
                f"The scheduler config says set_alpha_to_one = {self.set_alpha_to_one!r}, but it "
                "must be true or false. Use the scheduler_config.json of Latte-1."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScheduleSettings:
        """Read a diffusers `scheduler_config.json`, whichever scheduler class wrote it.

        Raises:
            InvalidInputError: for a schedule that is not an epsilon model's on 1000 steps.
        """
        for key, expected in (
            ("prediction_type", "epsilon"),
            ("num_train_timesteps", TRAIN_STEPS),
            ("trained_betas", None),
            ("rescale_betas_zero_snr", False),
            ("thresholding", False),
        ):
            if values.get(key, expected) != expected:
                raise InvalidInputError(
                    f"The scheduler config says {key} = {values[key]!r}, but Latte uses "
                    f"{expected!r}. This config belongs to another model."
                )
        known = (
            *("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "steps_offset"),
            "set_alpha_to_one",
        )
        clip = values.get("clip_sample_range", 1.0) if values.get("clip_sample") else None
        return cls(**{key: values[key] for key in known if key in values}, clip_range=clip)

    def alphas_cumprod(self) -> Tensor:
        """Return the (1000,) float64 products of 1 - beta, on the CPU."""
        make = scaled_linear_betas if self.beta_schedule == "scaled_linear" else linear_betas
        return alphas_cumprod_of(make(self.beta_start, self.beta_end))

    def timesteps(self, num_steps: int) -> list[int]:
        """Return the `num_steps` training-time indices to visit, highest first.

        Raises:
            InvalidInputError: if `num_steps` is not 1 .. 1000, or the offset leads beyond 999.
        """
        check_integer("steps", num_steps, 1, TRAIN_STEPS)
        if self.timestep_spacing == "leading":
            stride = TRAIN_STEPS // num_steps
            visits = [index * stride + self.steps_offset for index in reversed(range(num_steps))]
            self.check_highest(visits[0], num_steps)
            return visits
        if self.timestep_spacing == "trailing":
            stride = TRAIN_STEPS / num_steps
            return [round(TRAIN_STEPS - index * stride) - 1 for index in range(num_steps)]
        if num_steps == 1:
            return [0]
        span = (TRAIN_STEPS - 1) / (num_steps - 1)
        return [round(index * span) for index in reversed(range(num_steps))]

    def check_highest(self, timestep: float, num_steps: int) -> None:
        """Refuse a run that would begin beyond the training timesteps, where no table has an entry.

        Raises:
            InvalidInputError: naming the offset that leads there.
        """
        if timestep > TRAIN_STEPS - 1:
            raise InvalidInputError(
                f"{num_steps} steps with steps_offset = {self.steps_offset} in the scheduler "
                f"config would begin at timestep {timestep:g}, but the last one is "
                f"{TRAIN_STEPS - 1}. Set steps_offset to 0, as in Latte-1's "
                "scheduler_config.json, or use fewer steps: 50, for example."
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInputError(
            f"The scheduler config says {name} = {value!r}, but it must be one of "
            f"{', '.join(choices)}."
        )
