"""Weights of the text encoder in four bits: two numbers in a byte, and a scale for each group.

A row of K numbers is cut into groups of 32, or of 16 where 32 does not divide K. A number is
code * scale, where codes are -8 .. 7 and a scale has 16 bits; with 32 to a group that makes 4.5
bits for each. A scale may be negative: so the side with the larger number has the extra code.

Column c and column c + K/2 share byte c, the first in its lower half; what is stored is code + 8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stored_linear import StoredLinear

NAME = "int4"
STORED_AS = "latte_int4"  # in files; other programs have no such format
GROUPS = (32, 16)  # numbers that share a scale, the first that divides a row
BYTES_PER_NUMBER = 0.5 + 2 / GROUPS[0]
SCALE_TYPE = torch.bfloat16  # has float32's range, so that no group is too small or too large
OFFSET, LOWEST, HIGHEST = 8, -8, 7
BELOW, ABOVE = 8.5, 7.5  # steps to the ends of the range: half a step beyond the outer codes


def group_size(columns: int) -> int:
    """Return how many numbers of a row share a scale; 0 if no size divides the row."""
    return next((size for size in GROUPS if columns % size == 0), 0)


def quantise_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Store a weight (N, K) in four bits; K is a multiple of 16.

    No number is off by more than half of its group's scale.

    Returns:
        Bytes (N, K/2) uint8, and scales (N, K/G) bfloat16, G numbers in a group.
    """
    rows, columns = weight.shape
    groups = weight.detach().float().reshape(rows, -1, group_size(columns))  # N K/G G
    below = groups.amin(2).clamp_(max=0).neg_()
    above = groups.amax(2).clamp_(min=0)
    upright = torch.maximum(below / BELOW, above / ABOVE)
    turned = torch.maximum(below / ABOVE, above / BELOW)
    scales = away_from_zero(torch.where(upright <= turned, upright, -turned))
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = (groups / scales.float().unsqueeze(2)).round_().clamp_(LOWEST, HIGHEST).add_(OFFSET)
    low, high = codes.to(torch.uint8).flatten(1).chunk(2, dim=1)
    return low | (high << 4), scales


def away_from_zero(scales: Tensor) -> Tensor:
    """Return float32 scales in 16 bits, none smaller than it was: the outer codes must reach."""
    bits = scales.contiguous().view(torch.int32) + 0xFFFF  # the magnitude is what is counted up
    return (bits & -0x10000).view(torch.float32).to(SCALE_TYPE)


def dequantise_groups(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight (N, K) that `quantise_groups` stored, rounded once to `dtype`."""
    rows, half = values.shape
    weight = torch.empty(rows, 2 * half, dtype=dtype, device=values.device)
    weight[:, :half] = values & 15
    weight[:, half:] = values >> 4
    groups = weight.view(rows, scales.shape[1], -1)  # N K/G G
    groups.sub_(OFFSET).mul_(scales.to(dtype).unsqueeze(2))
    return weight


class FourBits(NamedTuple):
    """A weight as `quantise_groups` stores it."""

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return self.values.shape[0], 2 * self.values.shape[1]

    @property
    def is_sound(self) -> bool:
        """Whether types and sizes are those of a weight in four bits."""
        if self.values.dim() != 2 or self.scales.dim() != 2:
            return False
        rows, columns = self.shape
        size = group_size(columns)
        is_typed = (self.values.dtype, self.scales.dtype) == (torch.uint8, SCALE_TYPE)
        return is_typed and size > 0 and self.scales.shape == (rows, columns // size)


class FourBitLinear(StoredLinear):
    """A linear layer whose weight is stored in four bits and unpacked at each call.

    Args:
        values, scales: of `quantise_groups`.
        bias: (N,), or None.
        dtype: of the weight it stands for, see `StoredLinear.weight`.
    """

    def __init__(
        self, values: Tensor, scales: Tensor, *, bias: nn.Parameter | None, dtype: torch.dtype
    ) -> None:
        size = (2 * values.shape[1], values.shape[0])
        super().__init__(values, scales, size=size, bias=bias, name=NAME, is_saved=False)
        self.work_in(dtype)

    @classmethod
    def of(cls, layer: nn.Linear) -> FourBitLinear:
        """Return a layer in the place of an ordinary one."""
        values, scales = quantise_groups(layer.weight)
        made = cls(values, scales, bias=layer.bias, dtype=layer.weight.dtype)
        return made.train(layer.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., K) -> (..., N), in the type of `hidden`."""
        return F.linear(hidden, self.unpacked(hidden.dtype), self.bias)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) that the stored numbers mean."""
        return dequantise_groups(self.values, self.scales, dtype)
