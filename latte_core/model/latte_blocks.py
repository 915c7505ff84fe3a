"""The blocks of Latte in the paper's four arrangements (latte.md 2.5 and 4).

Tokens are (B, F, S, D) from the first block to the last: F frames (or tubelets), S places in each.
Spatial attention sees (B*F, S, D), temporal attention (B*S, F, D). The condition of the modulation
is (B, 1, D), or (B, 1 + I, D) where the I images behind a clip have labels of their own; it is
projected as it is and repeated for the frames only afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..kernels.choice import KernelSet
from ..latte_config import LatteConfig
from .attention import BlockHooks
from .layers import in_parts, modulate, normalize, project_gelu
from .positional import rotate

EPS = 1e-6

Rows = list[Tensor | None]
"""Shift, scale and gate of attention, then of feed-forward: each (B, 1 or F + I, 1, D), or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What every block of one call shares.

    Args:
        num_frames: token frames of the clip; frames behind them are images.
        hooks: what a host does in the place of attention.
        temporal_table: (F, D) to add before the first temporal attention, or None.
        rotation: (2, F, D/N/2), see `rotary_table`, for temporal attention, or None.
        is_temporal: False leaves temporal attention (and temporal blocks) out.
        kernels: may take the place of torch's operators, or None.
    """

    num_frames: int
    hooks: BlockHooks
    temporal_table: Tensor | None
    rotation: Tensor | None
    is_temporal: bool
    kernels: KernelSet | None = None


class FusedAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Args:
        width: token width D.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def spatial(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """Attend within each frame: (B, F, S, D) -> the same."""
        q, k, v = self.qkv(tokens.flatten(0, 1)).chunk(3, dim=2)  # (B F) S D
        attended = run.hooks.attention(q, k, v, self.heads, kind="spatial", block_index=index)
        if run.hooks.attn_output_hook is not None:
            attended = run.hooks.attn_output_hook(index, self.heads, attended)
        return self.proj(attended).view_as(tokens)

    def temporal(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """Attend across frames at each place: (B, F, S, D) -> the same."""
        along_time = rearrange(tokens, "b f s d -> (b s) f d")
        q, k, v = self.qkv(along_time).chunk(3, dim=2)  # (B S) F D
        if run.rotation is not None:
            q, k = rotate(q, self.heads, run.rotation), rotate(k, self.heads, run.rotation)
        attended = run.hooks.attention(q, k, v, self.heads, kind="temporal", block_index=index)
        return rearrange(self.proj(attended), "(b s) f d -> b f s d", b=tokens.shape[0])


class FeedForward(nn.Module):
    """Linear, GELU in its tanh form, Linear, under the released names fc1 and fc2."""

    works_in_parts = True

    def __init__(self, width: int, inner: int, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(width, inner, dtype=dtype, device=device)
        self.fc2 = operations.Linear(inner, width, dtype=dtype, device=device)

        self.rows: int | None = None  # of tokens at a time, see `set_feed_forward_rows`

    def forward(self, hidden: Tensor, kernels: KernelSet | None = None) -> Tensor:
        def apply(part: Tensor) -> Tensor:
            return self.fc2(project_gelu(self.fc1, part, kernels))

        return in_parts(apply, hidden, self.rows)


class Modulation(nn.ModuleList):
    """SiLU and Linear under the released names adaLN_modulation.0 and .1.

    Args:
        width: token width D.
        parts: vectors to make from a condition.
    """

    def __init__(self, width: int, parts: int, *, operations: Any, dtype: Any, device: Any) -> None:
        linear = operations.Linear(width, parts * width, dtype=dtype, device=device)
        super().__init__([nn.SiLU(), linear])
        self.parts = parts

    def rows(self, condition: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        """(B, R, D) -> `parts` times (B, 1, 1, D), or (B, F + I, 1, D) where R = 1 + I."""
        made = spread_to_frames(self[1](F.silu(condition)), num_frames)
        return made.unsqueeze(2).chunk(self.parts, dim=3)


class LatteBlock(nn.Module):
    """What all blocks share: an attention, a feed-forward layer and their modulation."""

    has_second_attention = False

    def __init__(self, config: LatteConfig, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        made_by: dict[str, Any] = {"operations": operations, "dtype": dtype, "device": device}
        width, heads = config.hidden_size, config.attention_heads
        self.attn = FusedAttention(width, heads, **made_by)
        if self.has_second_attention:
            self.attn_temp = FusedAttention(width, heads, **made_by)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), **made_by)
        self.is_modulated = config.injection == "adaln"
        if self.is_modulated:
            self.adaLN_modulation = Modulation(width, 6, **made_by)
        self.adds_temporal_table = False

    def modulation_rows(self, condition: Tensor, run: Pass) -> Rows:
        """Return the six rows for a condition (B, R, D)."""
        if not self.is_modulated:
            return [None] * 6
        return list(self.adaLN_modulation.rows(condition, run.num_frames))

    def feed_forward(self, hidden: Tensor, rows: Rows, run: Pass) -> Tensor:
        """Return hidden + gate * FF(modulated LayerNorm of hidden)."""
        update = self.mlp(norm(hidden, rows[3], rows[4]), run.kernels)
        return add_gated(hidden, rows[5], update)

    def place_in_time(self, clip: Tensor, run: Pass) -> Tensor:
        """Add the temporal table to a clip (B, F, S, D) if this block is the one that does."""
        return add_temporal_table(clip, run) if self.adds_temporal_table else clip


def norm(hidden: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """LayerNorm, modulated if there is a modulation."""
    plain = normalize(hidden, EPS)
    return plain if shift is None or scale is None else modulate(plain, shift, scale)


def add_gated(hidden: Tensor, gate: Tensor | None, update: Tensor) -> Tensor:
    """Return hidden + gate * update, or their sum without a gate."""
    return hidden + update if gate is None else torch.addcmul(hidden, gate, update)


def spread_to_frames(rows: Tensor, num_frames: int) -> Tensor:
    """Repeat the clip's row for its F frames: (B, 1 + I, D) -> (B, F + I, D); (B, 1, D) stays."""
    if rows.shape[1] == 1:
        return rows
    return torch.cat([rows[:, :1].expand(-1, num_frames, -1), rows[:, 1:]], dim=1)


def on_clip(hidden: Tensor, run: Pass, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the clip's frames; images behind them pass unchanged."""
    if hidden.shape[1] == run.num_frames:
        return apply(hidden)
    images = hidden[:, run.num_frames :]
    return torch.cat([apply(hidden[:, : run.num_frames]), images], dim=1)


def add_temporal_table(clip: Tensor, run: Pass) -> Tensor:
    """Add the temporal table (F, D), where there is one, to a clip (B, F, S, D)."""
    if run.temporal_table is None:
        return clip
    return clip + run.temporal_table[:, None].to(clip.dtype)


class SpatialBlock(LatteBlock):
    """Attention within each frame, feed-forward (variants 1 and 2)."""

    def forward(self, hidden: Tensor, condition: Tensor, run: Pass, index: int) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D)."""
        rows = self.modulation_rows(condition, run)
        update = self.attn.spatial(norm(hidden, rows[0], rows[1]), run, index)
        return self.feed_forward(add_gated(hidden, rows[2], update), rows, run)


class TemporalBlock(LatteBlock):
    """Attention across the frames of the clip, feed-forward (variants 1 and 2)."""

    def forward(self, hidden: Tensor, condition: Tensor, run: Pass, index: int) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D)."""
        if not run.is_temporal:
            return hidden
        rows = self.modulation_rows(condition[:, :1], run)

        def apply(clip: Tensor) -> Tensor:
            clip = self.place_in_time(clip, run)
            update = self.attn.temporal(norm(clip, rows[0], rows[1]), run, index)
            return self.feed_forward(add_gated(clip, rows[2], update), rows, run)

        return on_clip(hidden, run, apply)


class SplitBlock(LatteBlock):
    """Spatial attention, then temporal attention, then feed-forward (variant 3)."""

    has_second_attention = True

    def forward(self, hidden: Tensor, condition: Tensor, run: Pass, index: int) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D); both attentions share shift, scale and gate."""
        rows = self.modulation_rows(condition, run)
        update = self.attn.spatial(norm(hidden, rows[0], rows[1]), run, index)
        hidden = add_gated(hidden, rows[2], update)
        if run.is_temporal:
            shift, scale, gate = (None if row is None else row[:, :1] for row in rows[:3])

            def apply(clip: Tensor) -> Tensor:
                clip = self.place_in_time(clip, run)
                update = self.attn_temp.temporal(norm(clip, shift, scale), run, index)
                return add_gated(clip, gate, update)

            hidden = on_clip(hidden, run, apply)
        return self.feed_forward(hidden, rows, run)


class ParallelBlock(LatteBlock):
    """Spatial and temporal attention side by side, then feed-forward (variant 4)."""

    has_second_attention = True

    def forward(self, hidden: Tensor, condition: Tensor, run: Pass, index: int) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D); the sum of both attentions is gated once."""
        rows = self.modulation_rows(condition, run)
        tokens = norm(hidden, rows[0], rows[1])
        update = self.attn.spatial(tokens, run, index)
        if run.is_temporal:
            across = self.attn_temp.temporal(tokens[:, : run.num_frames], run, index)
            update = on_clip(update, run, lambda clip: clip + across)
        return self.feed_forward(add_gated(hidden, rows[2], update), rows, run)


def make_blocks(config: LatteConfig, **made_by: Any) -> list[LatteBlock]:
    """Return the blocks in the order in which they run."""
    blocks = [kind(config, **made_by) for kind in block_kinds(config)]
    for block in blocks:
        # variant 4 adds the table to its input, because its first block needs it on both sides
        if isinstance(block, (TemporalBlock, SplitBlock)):
            block.adds_temporal_table = True
            break
    return blocks


def block_kinds(config: LatteConfig) -> Sequence[type[LatteBlock]]:
    """Return the class of each block."""
    half = config.depth // 2
    if not config.has_temporal:
        return [SpatialBlock] * config.depth
    if config.variant == 1:
        return [SpatialBlock, TemporalBlock] * half
    if config.variant == 2:
        return [SpatialBlock] * half + [TemporalBlock] * half
    return [SplitBlock if config.variant == 3 else ParallelBlock] * config.depth
