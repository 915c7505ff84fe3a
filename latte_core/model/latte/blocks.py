"""The blocks of Latte in the paper's four arrangements (docs/model.md 2.5 and 4).

Tokens are (B, F, S, D) from the first block to the last: F frames (or tubelets), S places in each.
The condition of the modulation is (B, 1, D), one row for all tokens of a video, or (B, 1 + I, D)
where the I images behind a clip have labels of their own; it is projected as it is and repeated for
the frames only afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ...config.latte import LatteConfig
from ...kernels.choice import KernelSet
from ..base import LayerMaker
from ..layers import in_parts, normalize, project_gelu
from ..residual import Owed, Stream, settled, settled_norm
from .attention import (
    FusedAttention,
    Pass,
    add_temporal_table,
    on_clip,
    spread_to_frames,
    stream_on_clip,
)

EPS = 1e-6

Rows = list[Tensor | None]
"""Shift, factor and gate of attention, then of feed-forward: each (B, 1 or F + I, 1, D) or None."""


class FeedForward(nn.Module):
    """Linear, GELU in its tanh form, Linear, under the released names fc1 and fc2."""

    works_in_parts = True

    def __init__(self, width: int, inner: int, make: LayerMaker) -> None:
        super().__init__()
        self.fc1 = make.linear(width, inner)
        self.fc2 = make.linear(inner, width)

        self.rows: int | None = None  # of tokens at a time, see `set_feed_forward_rows`

    def forward(self, hidden: Tensor, kernels: KernelSet | None = None) -> Tensor:
        def apply(part: Tensor) -> Tensor:
            return self.fc2(project_gelu(self.fc1, part, kernels, self.fc2))

        return in_parts(apply, hidden, self.rows)


class Modulation(nn.ModuleList):
    """SiLU and Linear under the released names adaLN_modulation.0 and .1.

    Args:
        width: token width D.
        parts: vectors to make from a condition.
    """

    def __init__(self, width: int, parts: int, make: LayerMaker) -> None:
        super().__init__([nn.SiLU(), make.linear(width, parts * width)])
        self.parts = parts

    def rows(self, condition: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        """Return shift, factor and gate, and again, as many as there are `parts`.

        Args:
            condition: (B, R, D).
            num_frames: of the clip.

        Returns:
            Each (B, 1, 1, D), or (B, F + I, 1, D) where R = 1 + I; factors are 1 + scale.
        """
        made: Tensor = self[1](F.silu(condition)).unflatten(2, (self.parts, -1))
        made[:, :, 1::3].add_(1)
        return spread_to_frames(made, num_frames).chunk(self.parts, dim=2)


class LatteBlock(nn.Module):
    """What all blocks share: an attention, a feed-forward layer and their modulation."""

    has_second_attention = False

    def __init__(self, config: LatteConfig, make: LayerMaker) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.attention_heads
        self.attn = FusedAttention(width, heads, make)
        if self.has_second_attention:
            self.attn_temp = FusedAttention(width, heads, make)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), make)
        self.is_modulated = config.injection == "adaln"
        if self.is_modulated:
            self.adaLN_modulation = Modulation(width, 6, make)
        self.adds_temporal_table = False

    def forward(self, stream: Stream, condition: Tensor, run: Pass, index: int) -> Stream:
        """(B, F, S, D) -> (B, F, S, D); all attentions share shift, factor and gate."""
        rows = self.modulation_rows(condition, run)
        # nested, so that nothing is kept under a name through the feed-forward layer
        return self.feed_forward(self.attend(stream, rows, run, index), rows, run)

    def attend(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        """Add what the attentions of the block make: (B, F, S, D) -> (B, F, S, D)."""
        raise NotImplementedError

    def modulation_rows(self, condition: Tensor, run: Pass) -> Rows:
        """Return the six rows for a condition (B, R, D)."""
        if not self.is_modulated:
            return [None] * 6
        return list(self.adaLN_modulation.rows(condition, run.num_frames))

    def feed_forward(self, stream: Stream, rows: Rows, run: Pass) -> Stream:
        """Return hidden + gate * FF(modulated LayerNorm of hidden)."""
        hidden, tokens = settled_and_normed(stream, rows[3], rows[4], run.kernels)
        del stream  # its parts are not needed beside the widest layer
        owed = Owed(hidden, self.mlp(tokens, run.kernels), rows[5])
        return owed if run.carries else settled(owed, run.kernels)

    def add_spatial(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        """Attend within frames."""
        hidden, tokens = settled_and_normed(stream, rows[0], rows[1], run.kernels)
        return Owed(hidden, self.attn.spatial(tokens, run, index), rows[2])

    def add_temporal(
        self, attention: FusedAttention, stream: Stream, rows: Rows, run: Pass, index: int
    ) -> Stream:
        """Attend across frames, behind the temporal table where this block is to add it."""
        if self.adds_temporal_table and run.temporal_table is not None:
            stream = add_temporal_table(settled(stream, run.kernels), run)
        hidden, tokens = settled_and_normed(stream, rows[0], rows[1], run.kernels)
        update = attention.temporal(tokens, run, index)
        if run.kernels.is_active(update):
            update = update.contiguous()  # kernels read rows, torch adds views as well
        return Owed(hidden, update, rows[2])


def settled_and_normed(
    stream: Stream, shift: Tensor | None, factor: Tensor | None, kernels: KernelSet
) -> tuple[Tensor, Tensor]:
    """Return the tokens with the owed sum taken, and their LayerNorm, modulated if that can be."""
    if shift is None or factor is None:
        hidden = settled(stream, kernels)
        return hidden, normalize(hidden, EPS)
    return settled_norm(stream, shift, factor, EPS, kernels)


class SpatialBlock(LatteBlock):
    """Attention within each frame, feed-forward (variants 1 and 2)."""

    def attend(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        return self.add_spatial(stream, rows, run, index)


class TemporalBlock(LatteBlock):
    """Attention across the frames of the clip, feed-forward (variants 1 and 2)."""

    def forward(self, stream: Stream, condition: Tensor, run: Pass, index: int) -> Stream:
        """(B, F, S, D) -> (B, F, S, D)."""
        if not run.is_temporal:
            return stream
        rows = self.modulation_rows(condition[:, :1], run)

        def apply(clip: Stream) -> Stream:
            return self.feed_forward(self.attend(clip, rows, run, index), rows, run)

        return stream_on_clip(stream, run, apply)

    def attend(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        return self.add_temporal(self.attn, stream, rows, run, index)


class SplitBlock(LatteBlock):
    """Spatial attention, then temporal attention, then feed-forward (variant 3)."""

    has_second_attention = True

    def attend(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        stream = self.add_spatial(stream, rows, run, index)
        if not run.is_temporal:
            return stream
        clip_rows = [None if row is None else row[:, :1] for row in rows[:3]]

        def apply(clip: Stream) -> Stream:
            return self.add_temporal(self.attn_temp, clip, clip_rows, run, index)

        return stream_on_clip(stream, run, apply)


class ParallelBlock(LatteBlock):
    """Spatial and temporal attention side by side, then feed-forward (variant 4)."""

    has_second_attention = True

    def attend(self, stream: Stream, rows: Rows, run: Pass, index: int) -> Stream:
        """Add the sum of both attentions, gated once."""
        hidden, tokens = settled_and_normed(stream, rows[0], rows[1], run.kernels)
        update = self.attn.spatial(tokens, run, index)
        if run.is_temporal:
            across = self.attn_temp.temporal(tokens[:, : run.num_frames], run, index)
            update = on_clip(update, run, lambda clip: clip + across)
        return Owed(hidden, update, rows[2])


def make_blocks(config: LatteConfig, make: LayerMaker) -> list[LatteBlock]:
    """Return the blocks in the order in which they run."""
    blocks = [kind(config, make) for kind in block_kinds(config)]
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
