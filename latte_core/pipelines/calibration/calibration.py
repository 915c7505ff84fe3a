"""Calibrate the step cache of a model: measure gaps, choose schedules, see how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...acceleration.body import body_of
from ...acceleration.calibrate import (
    SPEED_UPS,
    CalibrationPlan,
    Example,
    mean_edges,
    measure_edges,
    schedules_for,
)
from ...acceleration.schedule_file import CalibratedSchedule, ScheduleFile
from ...acceleration.settings import CacheSettings
from ...types import VideoShape

MOST_DECIBELS = 100.0  # stands for equal videos, whose PSNR is infinite

Report = Callable[[int, int], None]
"""(full model calls made, of how many); an exception it raises ends the calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRun:
    """What a calibration makes its videos with; None is the model's own.

    Args:
        name, digest: of the model, for the file.
        steps: sampling steps; class models also take a step string.
        method: `ddpm` or `ddim`, for class models.
        guidance_scale: 1 or less is off.
        num_frames, height, width: of the videos.
        seed: of the first video; it rises by one with each.
        plan: how much is measured.
        speed_ups: how many times fewer steps the schedules compute.
    """

    name: str = ""
    digest: str = ""
    steps: str | None = None
    method: str | None = None
    guidance_scale: float | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0
    plan: CalibrationPlan = CalibrationPlan()
    speed_ups: tuple[float, ...] = SPEED_UPS

    def shape(self, defaults: Any) -> VideoShape:
        """Return the size of one video, from a model's defaults where it is left open."""
        return VideoShape(
            num_frames=defaults.num_frames if self.num_frames is None else self.num_frames,
            height=defaults.height if self.height is None else self.height,
            width=defaults.width if self.width is None else self.width,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model with the videos it is calibrated on.

    Args:
        model: the transformer.
        examples: makes the videos, one by one.
        make_frames: (number of the video, cache) -> its frames (F, H, W, 3) in [0, 1].
        sampler: name of the sampler.
        num_steps: model calls of a video.
        guidance_scale: of the videos.
    """

    model: nn.Module
    examples: Sequence[Callable[[], Example]]
    make_frames: Callable[[int, CacheSettings | None], Tensor]
    sampler: str
    num_steps: int
    guidance_scale: float


@torch.no_grad()
def calibrate(
    subject: Subject, run: CalibrationRun, *, report: Report | None = None
) -> ScheduleFile:
    """Measure every gap, choose the schedules, and measure what each does to the frames."""
    body, count, num_steps = body_of(subject.model), len(subject.examples), subject.num_steps
    counter = _Counter(report, count * run.plan.calls(num_steps))
    measured = [
        measure_edges(make(), body, run.plan, report=counter.add) for make in subject.examples
    ]
    found = schedules_for(mean_edges(measured), num_steps, run.plan.max_skip, run.speed_ups)
    made = ScheduleFile(
        model=run.name,
        digest=run.digest,
        sampler=subject.sampler,
        num_steps=num_steps,
        guidance_scale=subject.guidance_scale,
        forecast=run.plan.forecast,
        prompts=count,
        schedules=tuple(CalibratedSchedule(full_steps=one.full_steps) for one in found),
    )
    counter.total += count * (num_steps + sum(len(one.full_steps) for one in found))
    return _measure_frames(subject, made, counter)


def _measure_frames(subject: Subject, made: ScheduleFile, counter: _Counter) -> ScheduleFile:
    """Return the same schedules with the PSNR of their frames."""
    totals = [0.0] * len(made.schedules)
    for index in range(len(subject.examples)):
        plain = subject.make_frames(index, None)
        counter.add(made.num_steps)
        for number, schedule in enumerate(made.schedules):
            only = replace(made, schedules=(schedule,))
            frames = subject.make_frames(index, CacheSettings(schedules=only))
            totals[number] += psnr(frames, plain) / len(subject.examples)
            counter.add(len(schedule.full_steps))
    measured = [
        replace(schedule, psnr=round(total, 2))
        for schedule, total in zip(made.schedules, totals, strict=True)
    ]
    return replace(made, schedules=tuple(measured))


def psnr(frames: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio of frames in [0, 1] in dB, 100 at most."""
    error = float((frames.double() - reference.double()).square().mean())
    return MOST_DECIBELS if error == 0 else min(-10 * math.log10(error), MOST_DECIBELS)


class _Counter:
    """Counts model calls and tells how many are done."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report = report
        self._done = 0
        self.total = total

    def add(self, calls: int) -> None:
        self._done += calls
        if self._report is not None:
            self._report(self._done, self.total)
