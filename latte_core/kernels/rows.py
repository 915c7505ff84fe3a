"""What layers in eight bits read and return: quantised tokens, and sums that are not scaled yet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Tokens in eight bits, for the layers that read them.

    Args:
        values: (M, K) numbers.
        scales: (M, 1) float32.
        shape: of the tokens they stand for, (..., K).
        dtype: of those tokens.
    """

    values: Tensor
    scales: Tensor
    shape: torch.Size
    dtype: torch.dtype

    def view(self, *size: int) -> Rows:
        """Return the same tokens grouped in another way; one number may be -1."""
        return self._replace(shape=viewed(self.values, size))


class Sums(NamedTuple):
    """The result of a layer before it is scaled.

    Args:
        total: (M, N) int32, products of the numbers alone.
        row_scales: (M, 1) float32 of the tokens.
        scales: (N, 1) float32 of the weight.
        bias: (N,), or None.
        shape: of the result, (..., N).
        dtype: of the result.
    """

    total: Tensor
    row_scales: Tensor
    scales: Tensor
    bias: Tensor | None
    shape: torch.Size
    dtype: torch.dtype

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scales of rows and columns, and the bias."""
        return self.row_scales, self.scales, self.bias

    def view(self, *size: int) -> Sums:
        """Return the same result grouped in another way; one number may be -1."""
        return self._replace(shape=viewed(self.total, size))


def viewed(tensor: Tensor, size: tuple[int, ...]) -> torch.Size:
    """Return the shape that `tensor.view(*size)` has."""
    known = -torch.Size(size).numel()
    whole = tensor.numel() // known if known > 0 else -1
    return torch.Size(whole if one == -1 else one for one in size)
