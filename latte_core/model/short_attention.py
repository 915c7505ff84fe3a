"""Gradients of attention over a few rows, such as the frames at a place, in little memory.

Torch's fused kernels pad the rows of each head to 128 (flash) or 64 and more (efficient) in the
float32 buffers of their backward pass. Attention across 16 frames at 2 x 16 x 512 x 512 has 32,768
heads, for which that is 1.6 GB a layer. A few rows have few scores, so here these are computed
again by plain products, in float32 and some heads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_ROWS = 64  # above that the kernels' padding is less than the scores
HEADS_AT_ONCE = 4096  # 75 MB of float32 operands for 16 rows of 72 channels
HALVES = (torch.float16, torch.bfloat16)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention without a bias: (B, N, rows, d) each -> the same."""


def gains_from_products(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the gradients of (B, N, rows, d) are better computed here than by torch's kernels."""
    is_recorded = torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, v))
    is_short = max(q.shape[2], k.shape[2]) <= MOST_ROWS
    return is_recorded and is_short and q.is_cuda and q.dtype in HALVES


def attend_with_products(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as `attend` does; gradients are those of plain products."""
    return cast(Any, ShortAttention).apply(attend, q, k, v)


class ShortAttention(torch.autograd.Function):
    """Attention by any kernel, which keeps nothing for its gradients but queries, keys and values.

    With P = softmax(Q K' / sqrt(d)) and O = P V: dV = P' dO, dP = dO V', and of the scores
    dS = P (dP - sum(P dP)), so that dQ = dS K / sqrt(d) and dK = dS' Q / sqrt(d).
    """

    @staticmethod
    def forward(ctx: Any, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return attend(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v = cast(tuple[Tensor, Tensor, Tensor], ctx.saved_tensors)
        made = [torch.empty_like(one) for one in (q, k, v)]
        for part in parts_of(q.shape[0], q.shape[1]):
            found = gradients(*(rows_of(one[part]) for one in (q, k, v, grad)))
            for whole, piece in zip(made, found, strict=True):
                whole[part] = piece.view_as(whole[part])
        return None, *made


def parts_of(batch: int, heads: int) -> Iterator[tuple[slice, slice]]:
    """Yield parts of the two axes in front, of `HEADS_AT_ONCE` heads or fewer."""
    across = min(heads, HEADS_AT_ONCE)
    along = max(1, HEADS_AT_ONCE // heads)
    for first, start in product(range(0, batch, along), range(0, heads, across)):
        yield slice(first, first + along), slice(start, start + across)


def rows_of(part: Tensor) -> Tensor:
    """Return (b, n, rows, d) as (b * n, rows, d) in float32, float64 where it is that."""
    wide = torch.promote_types(part.dtype, torch.float32)
    return part.to(wide, memory_format=torch.contiguous_format).flatten(0, 1)


def gradients(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v (heads, rows, d) where `grad` is that of the result."""
    scale = q.shape[2] ** -0.5
    shares = torch.softmax(q @ k.mT * scale, dim=2)
    slope = grad @ v.mT
    slope = shares * (slope - (shares * slope).sum(dim=2, keepdim=True)) * scale
    return slope @ k, slope.mT @ q, shares.mT @ grad
