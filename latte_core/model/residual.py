"""Sums of tokens and updates, taken together with the norm that follows where there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.choice import (
    GATED_SUM,
    GATED_SUM_NORM,
    MODULATED_NORM,
    KernelSet,
    fits_gated_sum,
    fits_norm,
)
from ..kernels.eight_bit import GATED_SUM_NORM_ROWS, GATED_SUM_OF_SUMS, NORM_ROWS, scaled
from ..kernels.rows import Rows, Sums
from .eight_bit import Tokens, Update, row_kind
from .layers import modulated_norm


class Owed:
    """A sum that nobody has taken yet: hidden + gate * update.

    It is taken once. Its parts are let go then, whoever still holds this: two tensors of all tokens
    are not to lie beside the layers that work on their sum.

    Args:
        hidden, update: (B, ..., D); LatteT2V has (B, F*S, D), Latte (B, F, S, D). The update may
            be the sums of a layer in eight bits, which kernels scale as they take it, or None:
            then this only lets the tokens go.
        gate: (B or 1, 1..., D), or None for ones.
    """

    __slots__ = ("_parts", "shape")

    def __init__(self, hidden: Tensor, update: Update | None, gate: Tensor | None) -> None:
        self._parts: tuple[Tensor, Update | None, Tensor | None] | None = (hidden, update, gate)
        self.shape: torch.Size = hidden.shape

    def take(self) -> tuple[Tensor, Update | None, Tensor | None]:
        """Return hidden, update and gate, and forget them."""
        parts, self._parts = self._parts, None
        assert parts is not None
        return parts


Stream = Tensor | Owed
"""Tokens (B, ..., D) on their way from block to block, maybe with their last sum still owed."""


def gated_sum(hidden: Tensor, update: Tensor, gate: Tensor | None) -> Tensor:
    """Return hidden + gate * update."""
    return hidden + update if gate is None else torch.addcmul(hidden, gate, update)


def gated_sum_norm(
    hidden: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, factor: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return `gated_sum` and the `modulated_norm` of it."""
    total = gated_sum(hidden, update, gate)
    return total, modulated_norm(total, shift, factor, eps)


def settled(stream: Stream, kernels: KernelSet) -> Tensor:
    """Return the tokens, (B, ..., D), with the owed sum taken."""
    if isinstance(stream, Tensor):
        return stream
    hidden, update, gate = stream.take()
    if update is None:
        return hidden
    if isinstance(update, Sums):
        if fits_norm(hidden, gate):
            return GATED_SUM_OF_SUMS(hidden, update.total, *update.factors, gate)
        update = scaled(update)
    return kernels.run(GATED_SUM, gated_sum, hidden, update, gate)


def settled_norm(
    stream: Stream, shift: Tensor, factor: Tensor, eps: float, kernels: KernelSet
) -> tuple[Tensor, Tensor]:
    """Return the tokens with the owed sum taken, and LayerNorm of them * factor + shift.

    Args:
        stream: tokens.
        shift, factor: (B or 1, 1..., D).
        eps: of the norm.
        kernels: may do both at once.
    """
    hidden, update, gate = (stream, None, None) if isinstance(stream, Tensor) else stream.take()
    if update is None:
        return hidden, kernels.run(MODULATED_NORM, modulated_norm, hidden, shift, factor, eps)
    update = scaled(update) if isinstance(update, Sums) else update
    return kernels.run(GATED_SUM_NORM, gated_sum_norm, hidden, update, gate, shift, factor, eps)


def settled_rows(
    stream: Stream,
    shift: Tensor,
    factor: Tensor,
    eps: float,
    kernels: KernelSet,
    reader: nn.Module | None,
) -> tuple[Tensor, Tokens]:
    """Do as `settled_norm`, with the norm in eight bits where the layer that reads it wants that.

    Args:
        stream: tokens.
        shift, factor: (B or 1, 1..., D).
        eps: of the norm.
        kernels: may do both at once.
        reader: a layer that reads the norm, one for all that do; None for tokens as they are.
    """
    hidden, update, gate = (stream, None, None) if isinstance(stream, Tensor) else stream.take()
    kind = row_kind(reader, hidden, kernels)
    is_sum = not isinstance(update, Tensor) or fits_gated_sum(hidden, update, gate)
    if kind is None or not is_sum or not fits_norm(hidden, gate, shift, factor):
        return settled_norm(Owed(hidden, update, gate), shift, factor, eps, kernels)
    if update is None:
        values, scales = NORM_ROWS(hidden, shift, factor, eps, kind)
        return hidden, Rows(values, scales, hidden.shape, hidden.dtype)
    whole = (update, None, None, None) if isinstance(update, Tensor) else update[:4]
    total, values, scales = GATED_SUM_NORM_ROWS(hidden, *whole, gate, shift, factor, eps, kind)
    return total, Rows(values, scales, total.shape, total.dtype)
