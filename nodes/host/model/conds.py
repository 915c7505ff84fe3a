"""Conditions as ComfyUI carries them from call to call of a run: text, labels, and what is kept.

ComfyUI asks a model once per run and conditioning for its conditions (`extra_conds`), and takes
those through all calls of the run. What a run makes once of its conditionings and size (text keys
and values, tables of places) travels with them: it belongs to no module, is found without any node
of ours, and is gone with the run (docs/comfyui.md 4).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import comfy.conds
import torch
from torch import Tensor

KEPT = "latte_kept"  # among the conditions of a call
CONTEXT = "context"  # of a stack of conditionings, among what is kept

T = TypeVar("T")


class Kept:
    """What the calls of a run with the same conditionings in a batch share."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._joined: dict[tuple[int, ...], tuple[Sequence[Kept], Kept]] = {}

    def find(self, key: Hashable) -> Any:
        """Return what was made under a key, or None."""
        return self._made.get(key)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under a key, or make it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def with_others(self, others: Sequence[Kept]) -> Kept:
        """Return what is shared by the calls that stack others behind this one, in this order."""
        key = tuple(map(id, others))
        if key not in self._joined:
            self._joined[key] = (others, Kept())  # others are held, so that their ids stay theirs
        return self._joined[key][1]


class KeptCond(comfy.conds.CONDConstant):
    """Carries a `Kept` of one conditioning from call to call."""

    def can_concat(self, other: Any) -> bool:
        """Let any conditionings be stacked, as far as this is concerned."""
        return True

    def concat(self, others: Sequence[Any]) -> Kept:
        """Return what this stack of conditionings shares."""
        return self.cond.with_others([one.cond for one in others])


class TextCond(comfy.conds.CONDCrossAttn):
    """Text that is kept once per video; only a prompt per frame is spread over the batch.

    Stacked with the same others it is the same tensor in every call: by that the transformer knows
    text that nothing has changed on the way.

    Args:
        cond: (1 or F, L, C).
        kept: of the conditioning, if it is one for all frames.
    """

    def __init__(self, cond: Tensor, kept: Kept | None = None) -> None:
        super().__init__(cond)
        self.kept = kept if cond.shape[0] == 1 else None

    def _copy_with(self, cond: Tensor) -> TextCond:
        """Copy; text that a context window or another node changed is kept no more."""
        return type(self)(cond, self.kept if cond is self.cond else None)

    def process_cond(self, batch_size: int, **kwargs: Any) -> Any:
        """Leave a single row alone, which spares repeated text projections."""
        if self.cond.shape[0] == 1:
            return self._copy_with(self.cond)
        return super().process_cond(batch_size=batch_size, **kwargs)

    def concat(self, others: Sequence[Any]) -> Tensor:
        """Join texts, once in a run where all are kept."""
        texts = (self, *others)
        kept = [one.kept for one in texts if one.kept is not None]
        if len(kept) < len(texts):
            return super().concat(others)
        joined = kept[0].with_others(kept[1:])
        return joined.get(CONTEXT, lambda: super(TextCond, self).concat(others))


class LabelCond(comfy.conds.CONDConstant):
    """A label, once for all frames, as a number: what is no tensor is not moved to a device.

    So it can be looked at in every call, and no call waits for an accelerator.
    """

    def can_concat(self, other: Any) -> bool:
        """Let labels of all conditionings be stacked."""
        return True

    def concat(self, others: Sequence[Any]) -> tuple[int, ...]:
        """Return the labels of a stack of conditionings."""
        return (self.cond, *(one.cond for one in others))


def kept_of(given: dict[str, Any], patcher: Any) -> Kept | None:
    """Take what a call shares with others of its run out of its conditions.

    Args:
        given: conditions of the call; what was found is taken out.
        patcher: of the run.

    Returns:
        None where nothing may be kept: with gradients, or with hooks that change weights on the
        way.
    """
    kept = given.pop(KEPT, None)
    if torch.is_grad_enabled() or getattr(patcher, "hook_patches", None):
        return None
    return kept
