"""When the blocks of a step run and when they are skipped (docs/acceleration.md 1, 2, 5, 6).

Decisions only. A policy is a record without state: what it has to remember from step to step is one
number, which it is handed and hands back, so every decision can be repeated on paper.

Sources: TeaCache (arXiv 2411.19108), first-block cache (ParaAttention), LeMiCa (arXiv 2511.00090).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from ..checks import check_integer
from ..errors import IncompatibleInputsError, InvalidInputError

# TeaCache's fit for Latte, highest power first: relative change of the input of the first block ->
# relative change of the output. It falls up to the first bound and turns down behind the second.
LATTE_COEFFICIENTS = (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402)
FITTED_CHANGES = (0.0232, 0.174)
HEAD_SHARE = 0.15  # of all steps, at most half of the full ones: computed before any is skipped
TAIL = 2  # last steps that a hand-made schedule computes
MAX_STEPS = 10_000


class Watch(Enum):
    """What a policy wants to be told of each step."""

    NOTHING = "nothing"
    INPUT = "input"  # change of the first block's modulated input since the step before
    FIRST_PAIR = "first pair"  # change of the first pair's residual since the last full step


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a run.

    Args:
        index: its place in the schedule, 0 for the noisiest.
        num_steps: length of the schedule.
        first: the first index that is executed; above 0 where a run starts from a noisy video.
    """

    index: int
    num_steps: int
    first: int = 0

    @property
    def is_end(self) -> bool:
        """Whether it is the first or the last step that is executed: always computed."""
        return self.index <= self.first or self.index >= self.num_steps - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a step, and the number it wants back at the next one."""

    is_full: bool
    carried: float = 0.0


class Policy(Protocol):
    """Decides for each step of a run."""

    watches: ClassVar[Watch]

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        """Say whether a step is computed in full.

        Args:
            step: which one.
            change: relative change of what the policy watches; None if there is nothing to
                compare with.
            carried: from the step before; 0 at the first.
        """
        ...

    def planned(self, step: Step) -> bool | None:
        """Return the decision if it is known before the step begins, else None."""
        ...

    def check(self, num_steps: int) -> None:
        """Raise IncompatibleInputsError unless the policy fits a run of so many steps."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticSchedule:
    """A list of steps to compute, made before the run: by hand, or by calibration.

    Args:
        num_steps: length of the schedule.
        full_steps: rising indices; the first and the last step are computed in any case.

    Raises:
        InvalidInputError: for indices that are no steps, or not rising.
    """

    watches: ClassVar[Watch] = Watch.NOTHING
    num_steps: int
    full_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        check_integer("num_steps", self.num_steps, 1, MAX_STEPS)
        for index in self.full_steps:
            check_integer("A full step", index, 0, self.num_steps - 1)
        if list(self.full_steps) != sorted(set(self.full_steps)):
            raise InvalidInputError(
                f"The full steps are {list(self.full_steps)}, but they must rise and name each "
                "step once. Correct the schedule, or calibrate it anew."
            )

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        """Look the step up."""
        return Verdict(self.planned(step))

    def planned(self, step: Step) -> bool:
        """Look the step up."""
        return step.is_end or step.index in self.full_steps

    def check(self, num_steps: int) -> None:
        """Refuse a run of another length."""
        if num_steps != self.num_steps:
            raise IncompatibleInputsError(
                f"This cache schedule was made for {self.num_steps} model calls, but the run makes "
                f"{num_steps}. Use as many steps, calibrate for {num_steps}, or choose a cache "
                "that fits any number, such as static:2."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeaCache:
    """Skip until the estimated changes of the output, added up, reach a threshold.

    The change is clamped to the range in which the fit rises, so a calmer step never counts more.
    Within it no estimate is below 0.0622: thresholds up to that never skip.

    Args:
        threshold: 0.1 is slow, 0.2 fast.
        coefficients: of the polynomial, highest power first.
        fitted: lowest and highest change that the polynomial is evaluated at.

    Raises:
        InvalidInputError: for a threshold below 0, or not a number.
    """

    watches: ClassVar[Watch] = Watch.INPUT
    threshold: float = 0.15
    coefficients: tuple[float, ...] = LATTE_COEFFICIENTS
    fitted: tuple[float, float] = FITTED_CHANGES

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def estimate(self, change: float) -> float:
        """Return the estimated relative change of the output."""
        clamped = min(max(change, self.fitted[0]), self.fitted[1])
        value = 0.0
        for coefficient in self.coefficients:
            value = value * clamped + coefficient
        return value

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        """Add the estimate to what is carried; a full step starts again from 0."""
        if step.is_end or change is None or not math.isfinite(change):
            return Verdict(True)
        carried += self.estimate(change)
        return Verdict(False, carried) if carried < self.threshold else Verdict(True)

    def planned(self, step: Step) -> bool | None:
        """Only the ends are known."""
        return True if step.is_end else None

    def check(self, num_steps: int) -> None:
        """Any number of steps fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstBlock:
    """Run the first pair of blocks in every step; skip the rest while its residual stays the same.

    Args:
        threshold: relative change since the last full step, below which a step is skipped.

    Raises:
        InvalidInputError: for a threshold below 0, or not a number.
    """

    watches: ClassVar[Watch] = Watch.FIRST_PAIR
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        """Compare with the threshold."""
        if step.is_end or change is None:
            return Verdict(True)
        return Verdict(not change < self.threshold)  # also full if it is not a number

    def planned(self, step: Step) -> bool | None:
        """Only the ends are known."""
        return True if step.is_end else None

    def check(self, num_steps: int) -> None:
        """Any number of steps fits."""


def hand_schedule(num_steps: int, speed_up: float) -> StaticSchedule:
    """Return a schedule that was not calibrated: dense at both ends, even in between.

    Args:
        num_steps: steps of the run.
        speed_up: how many times fewer steps are computed in full, >= 1.

    Raises:
        InvalidInputError: for a number of steps or a speed-up that cannot be used.
    """
    check_integer("num_steps", num_steps, 1, MAX_STEPS)
    if not (math.isfinite(speed_up) and speed_up >= 1):
        raise InvalidInputError(
            f"The speed-up of the cache is {speed_up!r}, but it must be a number from 1 up, such "
            "as 1.6 (close to the original), 2 or 3.3 (fast)."
        )
    budget = full_steps_for(num_steps, speed_up)
    if budget >= num_steps:
        return StaticSchedule(num_steps=num_steps, full_steps=tuple(range(num_steps)))
    tail = min(TAIL, budget - 1)
    head = max(1, min(round(HEAD_SHARE * num_steps), (budget - tail) // 2))
    middle = budget - head - tail
    start, stop = head - 1, num_steps - tail  # both computed; the middle is spread between them
    spread = [round(start + (stop - start) * k / (middle + 1)) for k in range(1, middle + 1)]
    full = {*range(head), *spread, *range(stop, num_steps)}
    return StaticSchedule(num_steps=num_steps, full_steps=tuple(sorted(full)))


def full_steps_for(num_steps: int, speed_up: float) -> int:
    """Return how many steps are computed in full for a speed-up; never fewer than both ends."""
    return min(num_steps, max(2, round(num_steps / speed_up)))


def check_threshold(threshold: float) -> None:
    """Raise InvalidInputError unless it is a number from 0 up."""
    if not (math.isfinite(threshold) and threshold >= 0):
        raise InvalidInputError(
            f"The threshold of the cache is {threshold!r}, but it must be a number from 0 (never "
            "skip) up. TeaCache uses 0.1 to 0.25, first-block 0.05 to 0.2."
        )
