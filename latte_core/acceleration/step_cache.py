"""Body-residual skipping: in a skipped step the blocks' sum is repeated, not computed.

R = hidden after the last block - hidden before the first (or behind the first pair, for the
first-block policy). A full step runs every block and keeps R; a skipped step returns hidden + R
from the first block and lets the others pass. Embedding and head always run, because they depend on
the timestep. Nothing of the model is touched: everything happens in `BlockHooks.run_block`.

A step is identified by the caller: each model call names its timestep and, for the equal parts of
its batch, which conditioning each part is (see `StepClock`). The timestep is not read off the
modulation, because that depends on the class as well, and rounds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..checks import check_integer
from ..errors import IncompatibleInputsError, InvalidInputError
from ..model.attention import DEFAULT_HOOKS, BlockFn, BlockHooks
from .body import Body
from .clock import StepClock
from .forecast import MAX_ORDER, ResidualHistory
from .policies import Policy, Watch

ALL_ROWS = ("all",)


@dataclass(slots=True)
class Tally:
    """What a run has done so far.

    Args:
        full_steps, skipped_steps: as decided.
        forced_calls: later calls that were computed although their step is skipped, because
            nothing was known of their conditioning.
        work, whole: rows times units that were run, and that would have run without a cache.
    """

    full_steps: int = 0
    skipped_steps: int = 0
    forced_calls: int = 0
    work: float = 0
    whole: float = 0


class BlockCache(Protocol):
    """What goes around the blocks in one run, and tells what was done."""

    tally: Tally

    def reset(self) -> None:
        """Forget everything; the next call begins a new run of the same length."""
        ...

    def hooks(
        self,
        inner: BlockHooks = DEFAULT_HOOKS,
        *,
        timestep: float,
        ids: Sequence[Hashable] = ALL_ROWS,
        watched: int = 0,
        others: Sequence[Hashable] = (),
    ) -> BlockHooks:
        """Return the hooks of one model call, named as `StepCache.hooks` says."""
        ...


class StepCache:
    """The step cache of one run. It must not be used for a second one without `reset`.

    The first call of a step decides for all calls of it, by the rows of one id alone, so that
    conditionings in one batch and conditionings apart are treated alike, as long as a caller who
    makes several calls begins with that id. Of several videos in its rows, the one that changed
    most decides for all. Residuals are kept for each id; where those of the first call, or of calls
    that are known to follow, are missing, of another shape, or older than the last full step, the
    whole step is computed in full; where those of an unforeseen call are, that call alone.

    Args:
        policy: decides.
        body: of the transformer, see `body_of`.
        num_steps: steps of the schedule.
        first_step: index of the first step that is executed.
        forecast: 0 repeats the last residual, 1 or 2 continues the last two or three.

    Raises:
        InvalidInputError: for a forecast or step count out of range.
        IncompatibleInputsError: if the policy does not fit the run or the model.
    """

    def __init__(
        self,
        policy: Policy,
        body: Body,
        *,
        num_steps: int,
        first_step: int = 0,
        forecast: int = 0,
    ) -> None:
        policy.check(num_steps)
        if policy.watches is Watch.FIRST_PAIR and body.num_units < 2:
            raise IncompatibleInputsError(
                "The first-block cache skips all blocks but the first, and this model has no "
                "others. Choose another cache, such as static:2."
            )
        self.policy = policy
        self.body = body
        self._size = (num_steps, first_step)
        self._forecast = check_integer("forecast", forecast, 0, MAX_ORDER)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next call begins a new run of the same length."""
        self.tally = Tally()
        self._clock = StepClock(*self._size)
        self._histories: dict[Hashable, ResidualHistory] = {}
        self._watched: dict[Hashable, Tensor] = {}
        self._carried = 0.0
        self._is_full = True
        self._last_full = -1

    def hooks(
        self,
        inner: BlockHooks = DEFAULT_HOOKS,
        *,
        timestep: float,
        ids: Sequence[Hashable] = ALL_ROWS,
        watched: int = 0,
        others: Sequence[Hashable] = (),
    ) -> BlockHooks:
        """Return the hooks of one model call.

        Args:
            inner: what a host does; blocks that run, run through it.
            timestep: of the call; the same number for all calls of one step.
            ids: names of the conditionings (and windows) whose rows the batch holds, in order, in
                equal parts. The same names at every step.
            watched: index of the id whose rows decide, if this call begins a step.
            others: names that later calls of the step are known to ask for.
        """
        call = _Call(self, inner, timestep, tuple(ids), watched, tuple(others))
        return replace(inner, run_block=call.run_block)

    def enter(self, timestep: float, ids: Sequence[Hashable]) -> bool:
        """Note a call; return whether it begins a step and `decide` has to be called."""
        return self._clock.enter(timestep, ids)

    def decide(
        self,
        ids: Sequence[Hashable],
        shape: Sequence[int],
        name: Hashable,
        watched: Tensor | None,
    ) -> None:
        """Take the decision of the step under way.

        Args:
            ids: of all that the step is known to ask for.
            shape: (B, F*S, D) of the tokens of each.
            name: that of them whose rows are watched.
            watched: what the policy watches, of these rows; None if it watches nothing.
        """
        change = None
        # reading the change waits for the device: not where the decision does not depend on it
        if watched is not None and self.policy.planned(self._clock.step) is None:
            change = relative_change(watched, self._watched.get(name))
        verdict = self.policy.decide(self._clock.step, change, self._carried)
        self._is_full, self._carried = verdict.is_full, verdict.carried
        if not self._is_full and self._newest(ids, shape) is None:
            self._is_full, self._carried = True, 0.0
        if watched is not None and (self._is_full or self.policy.watches is Watch.INPUT):
            self._watched[name] = watched
        if not self._is_full:
            self.tally.skipped_steps += 1
            return
        self.tally.full_steps += 1
        # what was not renewed at the last full step is never used again
        for stale in [n for n, h in self._histories.items() if h.newest_step < self._last_full]:
            del self._histories[stale]
        self._last_full = self._clock.step.index

    def expected(self, ids: Sequence[Hashable], hidden: Tensor, timestep: float) -> Tensor | None:
        """Return the residual (B, F*S, D) of a call in a skipped step, or None to compute it."""
        if self._is_full:
            return None
        histories = self._newest(ids, shape_of_part(hidden, len(ids)))
        if histories is None:
            self.tally.forced_calls += 1
            return None
        parts = [history.at(timestep) for history in histories]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _newest(
        self, ids: Sequence[Hashable], shape: Sequence[int]
    ) -> list[ResidualHistory] | None:
        """Return what each id can repeat, or None if one of them can repeat nothing."""
        found: list[ResidualHistory] = []
        for name in ids:
            history = self._histories.get(name)
            if history is None or history.newest_step < self._last_full or not history.fits(shape):
                return None
            found.append(history)
        return found

    def keep(self, ids: Sequence[Hashable], timestep: float, residual: Tensor) -> None:
        """Keep the residual of a call that was computed in full."""
        for name, part in zip(ids, residual.chunk(len(ids)), strict=True):
            history = self._histories.setdefault(name, ResidualHistory(self._forecast))
            history.put(self._clock.step.index, timestep, part)

    def answer(self, ids: Sequence[Hashable], rows: int, units: int) -> None:
        """Note that a call is done, and how many units were run for its rows."""
        self._clock.answer(ids)
        self.tally.work += rows * units
        self.tally.whole += rows * self.body.num_units


class _Call:
    """One model call: its state lasts from the first block to the last."""

    def __init__(
        self,
        cache: StepCache,
        inner: BlockHooks,
        timestep: float,
        ids: tuple[Hashable, ...],
        watched: int,
        others: tuple[Hashable, ...],
    ) -> None:
        if not ids or len(set(ids)) != len(ids):
            raise InvalidInputError(
                f"A cached model call needs a different name for each conditioning; got {ids!r}."
            )
        self._cache = cache
        self._inner = inner
        self._timestep = timestep
        self._ids = ids
        self._watched = watched
        self._others = others
        self._start: Tensor | None = None  # what the residual is counted from; None: skipped

    def run_block(
        self, index: int, fn: BlockFn, hidden: Tensor, context: Tensor, modulation: Tensor
    ) -> Tensor:
        """Run a unit, or pass; see `RunBlock`."""
        if index == 0:
            hidden = self._begin(fn, hidden, context, modulation)
        elif self._start is not None:
            hidden = self._run(index, fn, hidden, context, modulation)
        units = self._cache.body.num_units
        if self._start is not None and index == units - 1:
            self._cache.keep(self._ids, self._timestep, (hidden - self._start).detach())
            self._cache.answer(self._ids, hidden.shape[0], units)
        return hidden

    def _begin(self, fn: BlockFn, hidden: Tensor, context: Tensor, modulation: Tensor) -> Tensor:
        """Return the tokens behind the first unit, or in a skipped step those behind the last."""
        cache, watches = self._cache, self._cache.policy.watches
        rows = self._rows_of_one(hidden)
        led = slice(self._watched * rows, (self._watched + 1) * rows)
        is_new = cache.enter(self._timestep, self._ids)
        watched, start, units = None, hidden, 0
        if watches is Watch.FIRST_PAIR:
            start, units = self._run(0, fn, hidden, context, modulation), 1
            watched = (start[led] - hidden[led]).detach() if is_new else None
        elif watches is Watch.INPUT and is_new:
            row = modulation if modulation.shape[0] == 1 else modulation[led]
            watched = cache.body.first_input(hidden[led], row).detach()
        if is_new:
            shape = shape_of_part(hidden, len(self._ids))
            cache.decide((*self._ids, *self._others), shape, self._ids[self._watched], watched)
        residual = cache.expected(self._ids, start, self._timestep)
        if residual is not None:
            self._start = None
            cache.answer(self._ids, hidden.shape[0], units)
            return start + residual
        self._start = start
        if watches is Watch.FIRST_PAIR:
            return start
        return self._run(0, fn, hidden, context, modulation)

    def _run(
        self, index: int, fn: BlockFn, hidden: Tensor, context: Tensor, modulation: Tensor
    ) -> Tensor:
        if self._inner.run_block is None:
            return fn(hidden, context, modulation)
        return self._inner.run_block(index, fn, hidden, context, modulation)

    def _rows_of_one(self, hidden: Tensor) -> int:
        """Return the rows of the batch that belong to one id."""
        rows, rest = divmod(hidden.shape[0], len(self._ids))
        if rest or not rows:
            raise IncompatibleInputsError(
                f"A model call of {hidden.shape[0]} videos was said to hold {len(self._ids)} "
                "conditionings in equal parts. Name each part of the batch once."
            )
        return rows


def shape_of_part(hidden: Tensor, count: int) -> tuple[int, ...]:
    """Return the shape of one of `count` equal parts of a batch."""
    return (hidden.shape[0] // count, *hidden.shape[1:])


def relative_change(now: Tensor, before: Tensor | None) -> float | None:
    """Return mean |now - before| / mean |before| of the video that changed most.

    Args:
        now: (B, F*S, D) of B videos.
        before: as `now`; None, or of another shape, where there is nothing to compare with.

    Returns:
        None where there is nothing to compare with.
    """
    if before is None or before.shape != now.shape:
        return None
    # A mean over all videos would hide the one that has to be computed.
    changes = [
        (new - old).abs().mean(dtype=torch.float32) / old.abs().mean(dtype=torch.float32)
        for new, old in zip(now.chunk(len(now)), before.chunk(len(now)), strict=True)
    ]
    return float(changes[0] if len(changes) == 1 else torch.stack(changes).max())
