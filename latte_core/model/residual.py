"""Sums of tokens and updates, taken together with the norm that follows where there is one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.choice import GATED_SUM, GATED_SUM_NORM, MODULATED_NORM, KernelSet
from .layers import modulated_norm


class Owed:
    """A sum that nobody has taken yet: hidden + gate * update.

    It is taken once. Its parts are let go then, whoever still holds this: two tensors of all tokens
    are not to lie beside the layers that work on their sum.

    Args:
        hidden, update: (B, ..., D); LatteT2V has (B, F*S, D), Latte (B, F, S, D).
        gate: (B or 1, 1..., D), or None for ones.
    """

    __slots__ = ("_parts", "shape")

    def __init__(self, hidden: Tensor, update: Tensor, gate: Tensor | None) -> None:
        self._parts: tuple[Tensor, Tensor, Tensor | None] | None = (hidden, update, gate)
        self.shape: torch.Size = hidden.shape

    def take(self) -> tuple[Tensor, Tensor, Tensor | None]:
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
    return kernels.run(GATED_SUM, gated_sum, *stream.take())


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
    if isinstance(stream, Tensor):
        return stream, kernels.run(MODULATED_NORM, modulated_norm, stream, shift, factor, eps)
    return kernels.run(GATED_SUM_NORM, gated_sum_norm, *stream.take(), shift, factor, eps)
