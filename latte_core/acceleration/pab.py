"""Pyramid attention broadcast through the attention hook (docs/acceleration.md 3).

Each kind of attention is computed in every n-th step and its result used again in between, while
the timestep lies inside a window. Here the result is what comes out of the softmax attention, in
front of its output projection and gate; projections and feed-forward layers always run. So a step
is spared the attention alone, which on Latte is a few percent of the work: the method is here to be
compared with, and for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_integer
from ..errors import InvalidInputError
from ..model.attention import DEFAULT_HOOKS, BlockHooks
from ..model.latte.attention import FusedAttention
from ..model.t2v.transformer import LatteT2V
from .clock import StepClock
from .policies import MAX_STEPS
from .step_cache import ALL_ROWS, Tally

SPATIAL, TEMPORAL, CROSS = "spatial", "temporal", "cross"
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Broadcast:
    """How often each kind of attention is computed; the defaults are VideoSys's for Latte.

    Args:
        spatial, temporal, cross: every how many steps; 1 keeps nothing of that kind.
        window: timesteps, lowest and highest, strictly between which results are used again.

    Raises:
        InvalidInputError: for a range below 1, or an empty window.
    """

    spatial: int = 2
    temporal: int = 3
    cross: int = 6
    window: tuple[float, float] = (100, 800)

    def __post_init__(self) -> None:
        for name in ("spatial", "temporal", "cross"):
            check_integer(name, getattr(self, name), 1, MAX_STEPS)
        if not self.window[0] < self.window[1]:
            raise InvalidInputError(
                f"The window of attention broadcast is {self.window}, but its first timestep must "
                "be the lower one, as in (100, 800)."
            )

    def computes(self, kind: str, index: int, timestep: float) -> bool:
        """Whether a kind of attention is computed at a step of the run, counted from 0."""
        every: int = getattr(self, kind)
        return index % every == 0 or not self.window[0] < timestep < self.window[1]

    def keeps(self, kind: str) -> bool:
        """Whether results of a kind of attention may be used again."""
        every: int = getattr(self, kind)
        return every > 1

    def kept_bytes(self, model: nn.Module, tokens: int, itemsize: int) -> int:
        """Return the bytes of the results that a run keeps.

        Args:
            model: a LatteT2V or Latte.
            tokens: of the whole batch of one call.
            itemsize: bytes of a number.
        """
        if isinstance(model, LatteT2V):
            kinds = [self.keeps(kind) for kind in (SPATIAL, TEMPORAL, CROSS)]
            width = model.config.num_layers * model.config.hidden_size * sum(kinds)
        else:  # of all attentions, one half looks within frames and the other along time
            kinds = [self.keeps(kind) for kind in (SPATIAL, TEMPORAL)]
            found = [one for one in model.modules() if isinstance(one, FusedAttention)]
            width = sum(one.proj.in_features for one in found) * sum(kinds) // len(kinds)
        return width * tokens * itemsize


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
    ) -> BlockHooks:
        """Return the hooks of one model call, which is taken to be made."""
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
