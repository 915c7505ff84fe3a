"""Calibration: measure what skipping costs, and choose the steps that cost least.

After LeMiCa (arXiv 2511.00090): the error of a gap is how far the predicted clean video moves when
the steps in the gap are served from the cache and all others are computed. The paper computes the
run to its end for every gap; here the comparison can be made earlier, a few full steps behind the
gap, where the video predicted then stands for the final one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..checks import check_integer
from ..model.attention import DEFAULT_HOOKS, BlockHooks
from .body import Body
from .forecast import MAX_ORDER
from .policies import MAX_STEPS, StaticSchedule, full_steps_for
from .schedule_search import best_schedule, smallest_budget
from .step_cache import StepCache

SPEED_UPS = (1.25, 1.6, 2.0, 2.5, 3.3)

HooksFor = Callable[[Sequence[str]], BlockHooks]
"""Names of the equal parts of the batch -> hooks of the call."""


class Sampler(Protocol):
    """One run of a sampler whose steps depend on nothing but their arguments."""

    @property
    def timesteps(self) -> list[float]:
        """Training-time index of every model call, in order."""
        ...

    def scale(self, latents: Tensor, call: int) -> Tensor:
        """Return the model input of a call."""
        ...

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        """Return the next latents from the model's output."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One video to calibrate on.

    Args:
        predict: (latents (1, 4, F, h, w), timestep, hooks factory) -> prediction; the factory is
            given the names of the equal parts of the batch and returns hooks for the call.
        start: (1, 4, F, h, w) latents of the first step.
        sampler: made for this video.
        denoise: (model input, prediction, timestep) -> predicted clean latents.
    """

    predict: Callable[[Tensor, float, HooksFor], Tensor]
    start: Tensor
    sampler: Sampler
    denoise: Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationPlan:
    """How much is measured.

    Args:
        max_skip: most steps that may be skipped in a row.
        look_ahead: full steps behind a gap at whose end videos are compared; None runs to the end.
        forecast: order of the forecast that the schedule will be used with.

    Raises:
        InvalidInputError: for a number out of range.
    """

    max_skip: int = 8
    look_ahead: int | None = 1
    forecast: int = 1

    def __post_init__(self) -> None:
        check_integer("max_skip", self.max_skip, 1, MAX_STEPS)
        check_integer("forecast", self.forecast, 0, MAX_ORDER)
        if self.look_ahead is not None:
            check_integer("look_ahead", self.look_ahead, 1, MAX_STEPS)

    def calls(self, num_steps: int) -> int:
        """Return how many model calls in full an example takes, about."""
        last = num_steps - 1
        total = num_steps
        for start in range(last - 1):
            for stop in range(start + 2, min(start + self.max_skip + 1, last) + 1):
                total += min(self.look_ahead or num_steps, num_steps - stop)
            total += 1 + min(start, self.forecast)
        return total


@torch.no_grad()
def measure_edges(
    example: Example,
    body: Body,
    plan: CalibrationPlan,
    *,
    report: Callable[[int], None] | None = None,
) -> dict[tuple[int, int], float]:
    """Return the error of every gap of one video; gaps without skipped steps have none.

    Args:
        example: the video.
        body: of the model that it is made with.
        plan: how much is measured.
        report: told the number of full model calls made since the last time.
    """
    report = report or (lambda _: None)
    num_steps = len(example.sampler.timesteps)
    latents, denoised = _run_plainly(example, report)
    edges = {(step, step + 1): 0.0 for step in range(num_steps - 1)}
    for start in range(num_steps - 2):
        stop_at = min(start + plan.max_skip + 1, num_steps - 1)
        for stop, reached in _skip_from(example, body, plan, start, stop_at, latents):
            ahead = num_steps if plan.look_ahead is None else stop + plan.look_ahead
            last = min(ahead, num_steps) - 1
            moved = _denoised_at(example, reached, stop, last)
            edges[start, stop] = float((moved - denoised[last]).abs().mean())
            report(last - stop + 1)
        report(1 + min(start, plan.forecast))
    return edges


def mean_edges(measured: Sequence[dict[tuple[int, int], float]]) -> dict[tuple[int, int], float]:
    """Return the mean error of each gap over several videos."""
    return {gap: sum(one[gap] for one in measured) / len(measured) for gap in measured[0]}


def schedules_for(
    edges: dict[tuple[int, int], float],
    num_steps: int,
    max_skip: int,
    speed_ups: Sequence[float] = SPEED_UPS,
) -> list[StaticSchedule]:
    """Return the best schedule for each speed-up that the longest allowed gap can reach.

    Args:
        edges: see `mean_edges`.
        num_steps: steps of the run.
        max_skip: longest gap.
        speed_ups: how many times fewer steps are computed.
    """
    least = smallest_budget(num_steps, max_skip)
    budgets = sorted({full_steps_for(num_steps, one) for one in speed_ups}, reverse=True)
    return [
        StaticSchedule(num_steps=num_steps, full_steps=best_schedule(edges, num_steps, budget))
        for budget in budgets
        if budget >= least
    ]


def _plain(_: Sequence[str]) -> BlockHooks:
    return DEFAULT_HOOKS


def _call(example: Example, latents: Tensor, step: int, hooks_for: HooksFor) -> tuple[Tensor, ...]:
    """Make a step; return the next latents and the predicted clean ones."""
    timestep = example.sampler.timesteps[step]
    given = example.sampler.scale(latents, step)
    prediction = example.predict(given, timestep, hooks_for).to("cpu", torch.float32)
    following = example.sampler.step(prediction, step, latents)
    return following, example.denoise(given, prediction, timestep)


def _run_plainly(
    example: Example, report: Callable[[int], None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the latents that each step starts from, and what it predicts as clean."""
    latents, denoised = [example.start], list[Tensor]()
    for step in range(len(example.sampler.timesteps)):
        following, clean = _call(example, latents[-1], step, _plain)
        latents.append(following)
        denoised.append(clean)
        report(1)
    return latents, denoised


def _skip_from(
    example: Example,
    body: Body,
    plan: CalibrationPlan,
    start: int,
    stop_at: int,
    latents: Sequence[Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """Compute a step, skip those behind it, and yield each step that can follow, with its latents.

    A forecast needs the residuals of the full steps before; they are taken to be the nearest.
    """
    num_steps = len(example.sampler.timesteps)
    first = max(0, start - plan.forecast)
    policy = StaticSchedule(num_steps=num_steps, full_steps=tuple(range(start + 1)))
    cache = StepCache(policy, body, num_steps=num_steps, first_step=first, forecast=plan.forecast)
    reached = latents[first]
    for step in range(first, stop_at):
        timestep = example.sampler.timesteps[step]

        def hooks_for(ids: Sequence[str], timestep: float = timestep) -> BlockHooks:
            return cache.hooks(timestep=timestep, ids=ids)

        reached, _ = _call(example, reached, step, hooks_for)
        if step > start:
            yield step + 1, reached


def _denoised_at(example: Example, latents: Tensor, step: int, last: int) -> Tensor:
    """Return the clean latents that step `last` predicts, computing everything from `step` on."""
    denoised = latents
    for number in range(step, last + 1):
        latents, denoised = _call(example, latents, number, _plain)
    return denoised
