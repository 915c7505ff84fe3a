"""Pyramid attention broadcast through the attention hook (docs/acceleration.md 3).

Each kind of attention is computed in every n-th step and its result used again in between, while
the timestep lies inside a window. Here the result is what comes out of the softmax attention, in
front of its output projection and gate; projections and feed-forward layers always run. So a step
is spared the attention alone, which on Latte is a few percent of the work: the method is here to be
compared with, and for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..model.attention import DEFAULT_HOOKS, BlockHooks
from .clock import StepClock
from .plans import CROSS, Broadcast
from .step_cache import ALL_ROWS, Tally

MLP_RATIO = 4


class AttentionBroadcast:
    """The attention results of one run. Calls are named as for `StepCache.hooks`.

    Args:
        plan: what is used again, and for how long.
        num_steps: steps of the schedule.
    """

    def __init__(self, plan: Broadcast, *, num_steps: int) -> None:
        self._plan = plan
        self._num_steps = num_steps
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next call begins a new run of the same length."""
        self.tally = Tally()
        self._clock = StepClock(self._num_steps)
        self._kept: dict[tuple[str, int, Hashable], Tensor] = {}

    def hooks(
        self,
        inner: BlockHooks = DEFAULT_HOOKS,
        *,
        timestep: float,
        ids: Sequence[Hashable] = ALL_ROWS,
        watched: int = 0,
        others: Sequence[Hashable] = (),
    ) -> BlockHooks:
        """Return the hooks of one model call, which is taken to be made.

        No rows decide and no later call is waited for: `watched` and `others` change nothing.
        """
        names = tuple(ids)
        if self._clock.enter(timestep, names):
            self.tally.full_steps += 1
        self._clock.answer(names)
        index = self._clock.step.index

        def attention(
            q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **about: Any
        ) -> Tensor:
            kind, block = str(about["kind"]), int(about["block_index"])
            kept = None
            if not self._plan.computes(kind, index, timestep):
                kept = self._recall(kind, block, names, q)
            self._count(kind, q, k, is_computed=kept is None)
            if kept is not None:
                return kept
            made = inner.attention(q, k, v, heads, mask=mask, **about)
            # else it is made of less than the whole batch
            if self._plan.keeps(kind) and made.shape[0] % len(names) == 0:
                for name, part in zip(names, made.detach().chunk(len(names)), strict=True):
                    self._kept[kind, block, name] = part
            return made

        return replace(inner, attention=attention)

    def _recall(self, kind: str, block: int, names: Sequence[Hashable], q: Tensor) -> Tensor | None:
        """Return the kept result for queries (B', N, D), or None if it is missing or unfit."""
        shape = (q.shape[0] // len(names), *q.shape[1:])
        parts = [self._kept.get((kind, block, name)) for name in names]
        fitting = [part for part in parts if part is not None and part.shape == shape]
        if len(fitting) != len(names):
            return None
        return fitting[0] if len(fitting) == 1 else torch.cat(fitting)

    def _count(self, kind: str, q: Tensor, k: Tensor, *, is_computed: bool) -> None:
        """Count multiplications as the paper does: an attention that is spared has no projections.

        Each self-attention stands for its feed-forward layer too, which is always computed.
        """
        rows, width = q.shape[0] * q.shape[1], q.shape[2]
        attention = rows * ((2 if kind == CROSS else 4) * width**2 + 2 * k.shape[1] * width)
        feed_forward = 0 if kind == CROSS else 2 * MLP_RATIO * rows * width**2
        self.tally.whole += attention + feed_forward
        self.tally.work += feed_forward + (attention if is_computed else 0)
