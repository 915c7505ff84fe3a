"""Calibrated schedules as a small JSON file that anyone can share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..checks import check_integer
from ..errors import CorruptCheckpointError, IncompatibleInputsError, InvalidInputError
from ..files import atomic_write, read_json
from .forecast import MAX_ORDER
from .policies import StaticSchedule

FORMAT = "latte-cache-schedules"
VERSION = 1
FOLDER = "cache_schedules"
"""Folder of a model's schedules beside its transformer, such as ddim-50.json in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedSchedule:
    """One list of steps, and how close its videos come to those without a cache.

    Args:
        full_steps: steps that are computed.
        psnr: of decoded frames against the same videos without a cache, in dB, mean over the
            prompts it was measured on; None if it was not measured.
    """

    full_steps: tuple[int, ...]
    psnr: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleFile:
    """What a calibration found for one model, sampler and number of steps.

    Args:
        model: name of the model.
        digest: of its weights; "" if it is not known.
        sampler: the sampler it was calibrated with.
        num_steps: model calls of a run.
        guidance_scale: of the calibration.
        forecast: order of the forecast that the schedules are meant for.
        prompts: how many prompts or classes were looked at.
        schedules: from the slowest and closest to the fastest.

    Raises:
        InvalidInputError: for a schedule that is none.
    """

    model: str
    digest: str
    sampler: str
    num_steps: int
    guidance_scale: float
    forecast: int
    prompts: int
    schedules: tuple[CalibratedSchedule, ...]

    def __post_init__(self) -> None:
        check_integer("forecast", self.forecast, 0, MAX_ORDER)
        if not self.schedules:
            raise InvalidInputError("A file of cache schedules needs one schedule at least.")
        for schedule in self.schedules:
            StaticSchedule(num_steps=self.num_steps, full_steps=schedule.full_steps)

    def nearest(self, speed_up: float) -> StaticSchedule:
        """Return the schedule whose speed-up is nearest, in ratio."""

        def distance(schedule: CalibratedSchedule) -> float:
            return abs(math.log(self.num_steps / len(schedule.full_steps) / speed_up))

        best = min(self.schedules, key=distance)
        return StaticSchedule(num_steps=self.num_steps, full_steps=best.full_steps)

    def check(self, sampler: str, num_steps: int) -> None:
        """Refuse a run that was not calibrated.

        Raises:
            IncompatibleInputsError: naming both.
        """
        if (sampler, num_steps) != (self.sampler, self.num_steps):
            raise IncompatibleInputsError(
                f"The cache schedule was calibrated on {self.model} for {self.num_steps} model "
                f"calls of {self.sampler}, but this run makes {num_steps} of {sampler}. Use those "
                "settings, calibrate for yours, or choose a cache that fits any, such as static:2."
            )

    def write(self, path: Path) -> None:
        """Write the file whole, or not at all."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ScheduleFile:
        """Read a file that `write` made.

        Raises:
            InvalidInputError: if there is no such file, or a schedule in it cannot be used.
            CorruptCheckpointError: if it is no file of schedules.
        """
        if not path.is_file():
            raise InvalidInputError(
                f"There is no file {str(path)!r} with cache schedules. Make one with "
                "'python -m latte_core calibrate', or choose a cache without a file."
            )
        values = read_json(path)
        if values.get("format") != FORMAT or values.get("version") != VERSION:
            raise CorruptCheckpointError(
                f"{path.name} says format {values.get('format')!r}, version "
                f"{values.get('version')!r}, but {FORMAT!r}, version {VERSION} is expected. "
                "Use a file made by 'python -m latte_core calibrate'."
            )
        try:
            return cls._from_values(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise CorruptCheckpointError(
                f"{path.name} is not a whole file of cache schedules: {error}. Calibrate anew, or "
                "get it again."
            ) from error

    @classmethod
    def beside(cls, folder: Path, sampler: str, num_steps: int) -> ScheduleFile | None:
        """Return the schedules that a model came with for a run, or None.

        Args:
            folder: the model's, with its transformer, text encoder and VAE.
            sampler: name of the sampler.
            num_steps: model calls of the run.

        Raises:
            CorruptCheckpointError: if there is such a file, and it cannot be read.
        """
        path = folder / FOLDER / f"{sampler}-{num_steps}.json"
        return cls.read(path) if path.is_file() else None

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> ScheduleFile:
        """Build from JSON; unknown keys are refused by the constructor."""
        rest = {key: value for key, value in values.items() if key not in ("format", "version")}
        listed = cast("list[dict[str, Any]]", rest.pop("schedules"))
        schedules = tuple(
            CalibratedSchedule(full_steps=tuple(one.pop("full_steps")), **one) for one in listed
        )
        return cls(**rest, schedules=schedules)
