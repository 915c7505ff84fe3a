"""Sums of tokens and updates, taken together with the norm that follows where there is one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.choice import GATED_SUM, GATED_SUM_NORM, MODULATED_NORM, KernelSet
from .layers import modulated_norm


class Owed(NamedTuple):
    """A sum that nobody has taken yet: hidden + gate * update.

    Args:
        hidden, update: (B, ..., D); LatteT2V has (B, F*S, D), Latte (B, F, S, D).
        gate: (B or 1, 1..., D), or None for ones.
    """

    hidden: Tensor
    update: Tensor
    gate: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """Of the sum."""
        return self.hidden.shape


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
    return stream if isinstance(stream, Tensor) else kernels.run(GATED_SUM, gated_sum, *stream)


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
    return kernels.run(GATED_SUM_NORM, gated_sum_norm, *stream, shift, factor, eps)
