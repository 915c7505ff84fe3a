"""The spatial and the temporal block of LatteT2V (latte.md 5.6).

Tokens stay in one layout, (B, F*S, D) with frames outermost, from the first block to the last. Only
attention regroups them: spatial attention sees (B*F, S, D), which is a view, and temporal attention
(B*S, F, D), which is one copy. Modulation and feed-forward do not care about grouping, so they
work with one row of modulation for each video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, BlockHooks
from .layers import FeedForward, modulate, normalize


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFeatures:
    """A prompt as the transformer reads it: made once, used for every step and every frame.

    Args:
        tokens: (B, L, D) projected text.
        keys, values: for each block pair (B, L, D); empty if each block makes its own.
        bias: (B, 1, L) additive attention bias, or None to attend to every row.

    B is the number of videos, or videos * frames for one prompt per frame.
    """

    tokens: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How a token sequence of length F*S is laid out."""

    batch: int
    num_frames: int
    rows: int
    columns: int


class Block(nn.Module):
    """What both kinds share: a modulation table, self-attention and a feed-forward layer."""

    def __init__(
        self, width: int, heads: int, eps: float, *, operations: Any, dtype: Any, device: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        self.eps = eps
        # float32 whatever `dtype` says: hosts that store weights in 8 bits cast only layers
        table = torch.randn(6, width, dtype=torch.float32, device=device) / width**0.5
        self.scale_shift_table = nn.Parameter(table)
        self.attn1 = Attention(width, operations=operations, dtype=dtype, device=device)
        self.ff = FeedForward(width, operations=operations, dtype=dtype, device=device)

    def modulation_rows(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale, gate of attention and of feed-forward, each (B, 1, D)."""
        table = self.scale_shift_table.to(device=modulation.device, dtype=modulation.dtype)
        return (table + modulation).chunk(6, dim=1)

    def feed_forward(self, hidden: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """Return hidden + gate * FF(modulated LayerNorm of hidden)."""
        update = self.ff(modulate(normalize(hidden, self.eps), shift, scale))
        return torch.addcmul(hidden, gate, update)


class SpatialBlock(Block):
    """Self-attention within each frame, cross-attention to the text, feed-forward."""

    def __init__(
        self, width: int, heads: int, eps: float, *, operations: Any, dtype: Any, device: Any
    ) -> None:
        super().__init__(width, heads, eps, operations=operations, dtype=dtype, device=device)
        self.attn2 = Attention(width, operations=operations, dtype=dtype, device=device)

    def forward(
        self,
        hidden: Tensor,
        text: TextFeatures,
        modulation: Tensor,
        grid: Grid,
        hooks: BlockHooks,
        index: int,
    ) -> Tensor:
        """(B, F*S, D) -> (B, F*S, D); `modulation` is (B, 6, D)."""
        rows = self.modulation_rows(modulation)
        tokens = modulate(normalize(hidden, self.eps), rows[0], rows[1])
        tokens = tokens.view(grid.batch * grid.num_frames, -1, hidden.shape[2])  # (B F) S D
        attended = hooks.attention(
            self.attn1.to_q(tokens),
            self.attn1.to_k(tokens),
            self.attn1.to_v(tokens),
            self.heads,
            kind="spatial",
            block_index=index,
        )
        if hooks.attn_output_hook is not None:
            attended = hooks.attn_output_hook(index, self.heads, attended)
        update = self.attn1.project_out(attended).view_as(hidden)  # B (F S) D
        hidden = torch.addcmul(hidden, rows[2], update)
        hidden = hidden + self.attend_text(hidden, text, hooks, index)
        return self.feed_forward(hidden, rows[3], rows[4], rows[5])

    def attend_text(
        self, hidden: Tensor, text: TextFeatures, hooks: BlockHooks, index: int
    ) -> Tensor:
        """Cross-attend without norm, modulation or gate; all frames of a prompt in one call."""
        queries = self.attn2.to_q(hidden).view(text.tokens.shape[0], -1, hidden.shape[2])
        attended = hooks.attention(
            queries,
            text.keys[index] if text.keys else self.attn2.to_k(text.tokens),
            text.values[index] if text.values else self.attn2.to_v(text.tokens),
            self.heads,
            mask=text.bias,
            kind="cross",
            block_index=index,
        )
        return self.attn2.project_out(attended).view_as(hidden)


class TemporalBlock(Block):
    """Self-attention across the frames at each place, feed-forward."""

    def forward(
        self, hidden: Tensor, modulation: Tensor, grid: Grid, hooks: BlockHooks, index: int
    ) -> Tensor:
        """(B, F*S, D) -> (B, F*S, D); `modulation` is (B, 6, D)."""
        rows = self.modulation_rows(modulation)
        tokens = modulate(normalize(hidden, self.eps), rows[0], rows[1])
        tokens = rearrange(tokens, "b (f s) d -> (b s) f d", f=grid.num_frames)
        attended = hooks.attention(
            self.attn1.to_q(tokens),
            self.attn1.to_k(tokens),
            self.attn1.to_v(tokens),
            self.heads,
            kind="temporal",
            block_index=index,
        )
        update = self.attn1.project_out(attended)
        update = rearrange(update, "(b s) f d -> b (f s) d", b=grid.batch)
        hidden = torch.addcmul(hidden, rows[2], update)
        return self.feed_forward(hidden, rows[3], rows[4], rows[5])
