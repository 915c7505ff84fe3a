"""The caches of one run, and the model calls that go through them.

Everything a run remembers is in one object that is made when the run begins and dropped when it
ends, however it ends (docs/faults.md R37-R39).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from ..model.attention import DEFAULT_HOOKS, BlockHooks
from .guidance_cache import GuidanceCache
from .policies import Policy, Step
from .settings import CacheSettings
from .step_cache import BlockCache, Tally

Forward = Callable[[slice, BlockHooks], Tensor]
"""(rows of the batch, hooks) -> the model's prediction for these rows."""

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheReport:
    """What a cached run computed.

    Args:
        num_steps: model calls that the run was made for.
        full_steps: steps that ran all blocks.
        skipped_steps: steps that ran none, or the first pair alone.
        half_steps: steps that left out the unfollowed half of guidance.
        forced_calls: calls in skipped steps that had to be computed.
        work: share of the blocks' work that was done; for attention broadcast by its authors'
            count, which leaves out projections that are run here.
    """

    num_steps: int
    full_steps: int
    skipped_steps: int
    half_steps: int
    forced_calls: int
    work: float

    def sentence(self) -> str:
        """Say it in one line."""
        parts = [f"{self.full_steps} of {self.num_steps} steps in full"]
        if self.skipped_steps:
            parts.append(f"{self.skipped_steps} skipped")
        if self.half_steps:
            parts.append(f"{self.half_steps} without the other half of guidance")
        if self.forced_calls:
            parts.append(f"{self.forced_calls} calls of skipped steps computed after all")
        return f"Cache: {', '.join(parts)}; {self.work:.0%} of the blocks' work."


class RunCache:
    """The caches of one run.

    Args:
        settings: what is cached.
        model: a LatteT2V or Latte; nothing in it is changed.
        num_steps: model calls of the run.
        sampler: its name, which calibrated schedules are made for.
        ids: what the equal parts of the batch are, in order: one for a run without guidance, two
            with it.
        followed: which of them is the prompt or class; its rows decide what is computed, and the
            guidance cache leaves out the other.

    Raises:
        IncompatibleInputsError: if the settings do not fit the run or the model.
    """

    def __init__(
        self,
        settings: CacheSettings,
        model: nn.Module,
        *,
        num_steps: int,
        sampler: str = "",
        ids: Sequence[str] = ("followed",),
        followed: int = 0,
    ) -> None:
        self._num_steps, self._ids, self._followed = num_steps, tuple(ids), followed
        self._policy: Policy | None = settings.make_policy(num_steps, sampler)
        self._steps: BlockCache | None = settings.make_cache(self._policy, model, num_steps)
        has_halves = settings.guidance is not None and len(self._ids) > 1
        self._guidance = GuidanceCache(num_steps, settings.guidance) if has_halves else None
        self._calls = 0
        self._half_steps = 0
        self._rows_asked = self._rows_called = 0

    @property
    def may_halve(self) -> bool:
        """Whether some calls are made for the followed rows alone."""
        return self._guidance is not None

    def predict(
        self, batch: int, timestep: float, forward: Forward, inner: BlockHooks = DEFAULT_HOOKS
    ) -> Tensor:
        """Make one step's model call, or as much of it as is needed.

        Args:
            batch: rows of the whole call, in as many equal parts as there are ids.
            timestep: of the step.
            forward: calls the model; once for each call of this.
            inner: hooks of a host.

        Returns:
            The prediction for the whole batch.
        """
        index, part = self._calls, batch // len(self._ids)
        self._calls += 1
        self._rows_asked += batch
        if self._guidance is None or not self._is_half(index):
            self._rows_called += batch
            whole = forward(slice(0, batch), self._hooks(inner, timestep, self._ids))
            if self._guidance is not None:
                halves = list(whole.chunk(len(self._ids)))
                self._guidance.keep(index, halves.pop(self._followed), halves[0])
            return whole
        self._half_steps += 1
        self._rows_called += part
        rows = slice(self._followed * part, (self._followed + 1) * part)
        name = (self._ids[self._followed],)
        made = forward(rows, self._hooks(inner, timestep, name))
        halves = [self._guidance.rebuild(index, made)]
        halves.insert(self._followed, made)
        return torch.cat(halves)

    def report(self) -> CacheReport:
        """Return what was computed so far."""
        tally = self._steps.tally if self._steps is not None else Tally(full_steps=self._calls)
        work = tally.work / tally.whole if tally.whole else 1.0  # of the rows that were called for
        return CacheReport(
            num_steps=self._num_steps,
            full_steps=tally.full_steps,
            skipped_steps=tally.skipped_steps,
            half_steps=self._half_steps,
            forced_calls=tally.forced_calls,
            work=work * self._rows_called / max(self._rows_asked, 1),
        )

    def close(self) -> CacheReport:
        """Forget everything, and return and log what was computed."""
        report = self.report()
        logger.info("%s", report.sentence())
        if self._steps is not None:
            self._steps.reset()
        self._guidance = None
        return report

    def _is_half(self, index: int) -> bool:
        assert self._guidance is not None
        planned = None
        if self._policy is not None:
            planned = self._policy.planned(Step(index=index, num_steps=self._num_steps))
        return self._guidance.is_half(index, is_skipped=planned is False)

    def _hooks(self, inner: BlockHooks, timestep: float, ids: Sequence[str]) -> BlockHooks:
        if self._steps is None:
            return inner
        watched = ids.index(self._ids[self._followed])
        return self._steps.hooks(inner, timestep=timestep, ids=ids, watched=watched)


class CachedLatte(nn.Module):
    """A Latte whose calls go through the cache of one run; to be given to a sampler in its place.

    Args:
        model: a class-conditional or unconditional Latte.
        run: made for batches of [class ; null class] under guidance, in this order.
    """

    def __init__(self, model: nn.Module, run: RunCache) -> None:
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self._run = run

    def place_tables(self, *given: Any) -> Any:
        """Return the model's tables of a size."""
        make: Any = self.model.place_tables
        return make(*given)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        class_labels: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Predict as the model does; `hooks` among the options run what blocks are run."""
        if latents.ndim != 5 or timesteps.numel() == 0:
            raise InvalidInputError(
                f"The latents have shape {tuple(latents.shape)}, but (B, 4, F, h, w) is expected."
            )
        inner: BlockHooks = options.pop("hooks", DEFAULT_HOOKS)
        batch = latents.shape[0]
        times = timesteps.expand(batch)

        def call(rows: slice, hooks: BlockHooks) -> Tensor:
            labels = class_labels
            if labels is not None and labels.shape[0] == batch:
                labels = labels[rows]
            return self.model(latents[rows], times[rows], labels, hooks=hooks, **options)

        return self._run.predict(batch, float(times[0]), call, inner)
