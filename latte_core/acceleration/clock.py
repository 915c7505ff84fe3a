"""Which step of a run a model call belongs to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..checks import check_integer
from .policies import MAX_STEPS, Step


class StepClock:
    """Counts the steps of one run from its model calls.

    One step may take several calls: conditionings apart, or context windows. Calls of one step have
    the same timestep and different ids, so a call begins a new step if its timestep is another one,
    or if one of its ids was answered at this timestep before (Heun visits a timestep twice). A
    call that failed was not answered, and may be repeated.

    Args:
        num_steps: steps of the schedule.
        first_step: index of the first that is executed.
    """

    def __init__(self, num_steps: int, first_step: int = 0) -> None:
        self._num_steps = check_integer("num_steps", num_steps, 1, MAX_STEPS)
        self._first = check_integer("first_step", first_step, 0, num_steps - 1)
        self._index = self._first - 1
        self._timestep: float | None = None
        self._answered: set[Hashable] = set()

    @property
    def step(self) -> Step:
        """The step that is under way."""
        return Step(index=self._index, num_steps=self._num_steps, first=self._first)

    def enter(self, timestep: float, ids: Sequence[Hashable]) -> bool:
        """Note a call before it is made; return whether it begins a step."""
        if timestep == self._timestep and self._answered.isdisjoint(ids):
            return False
        self._index += 1
        self._timestep = timestep
        self._answered = set()
        return True

    def answer(self, ids: Sequence[Hashable]) -> None:
        """Note that the call was answered."""
        self._answered.update(ids)
