"""The attention call, and the hooks by which a host replaces or watches parts of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class AttentionFn(Protocol):
    """Softmax attention with scale 1/sqrt(head width) on tokens with their heads side by side.

    `q` is (B, N, D), `k` and `v` are (B, M, D), `mask` is None or an additive bias that broadcasts
    to (B, N, M); the result is (B, N, D). Keywords `kind` ("spatial", "cross" or "temporal") and
    `block_index` say who calls.
    """

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor: ...


BlockFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One pair of blocks: (hidden (B, F*S, D), context (B, L, D), modulation (B, 6, D)) -> hidden."""

RunBlock = Callable[[int, BlockFn, Tensor, Tensor, Tensor], Tensor]
"""Runs, skips or replaces a pair: (index, fn, hidden, context, modulation) -> hidden."""

AttentionOutputHook = Callable[[int, int, Tensor], Tensor]
"""(index, heads, spatial self-attention output (B*F, S, D) before its projection) -> the same."""


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return (B, S, D) as (B, N, S, D/N)."""
    batch, rows, width = tokens.shape
    return tokens.reshape(batch, rows, heads, width // heads).transpose(1, 2)


def scaled_dot_product(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: Any
) -> Tensor:
    """Attend with torch's fused kernel; the default `AttentionFn`."""
    q, k, v = (split_heads(t, heads) for t in (q, k, v))  # B N S D/N
    bias = None if mask is None else mask.unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockHooks:
    """What a host puts in place of the defaults for one call.

    Args:
        attention: does every attention of the model.
        run_block: calls each pair of blocks; None calls them directly.
        attn_output_hook: sees and may change the output of spatial self-attention.
        text_in_blocks: each block makes its own keys and values of the text, where all of its
            weights are at hand (training that gathers or recomputes a block at a time).
    """

    attention: AttentionFn = scaled_dot_product
    run_block: RunBlock | None = None
    attn_output_hook: AttentionOutputHook | None = None
    text_in_blocks: bool = False


DEFAULT_HOOKS = BlockHooks()


class Attention(nn.Module):
    """Projections of a multi-head attention under their released names.

    Args:
        width: token width D; heads and attention itself belong to the caller.
        operations: namespace that makes the layers.
    """

    def __init__(self, width: int, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        self.to_q = operations.Linear(width, width, dtype=dtype, device=device)
        self.to_k = operations.Linear(width, width, dtype=dtype, device=device)
        self.to_v = operations.Linear(width, width, dtype=dtype, device=device)
        self.to_out = nn.ModuleList([operations.Linear(width, width, dtype=dtype, device=device)])

    def project_out(self, hidden: Tensor) -> Tensor:
        """Apply the output projection."""
        return self.to_out[0](hidden)
