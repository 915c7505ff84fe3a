"""What the blocks of one call of Latte share, and their attention (docs/model.md 2.5 and 4).

Tokens are (B, F, S, D) and stay in this order where the fused kernel attends across frames, which
reads queries, keys and values from the rows that one projection made. Torch's own attention there,
a host's, and one with rotated queries and keys are given tokens in the order (B*S, F, D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from ...kernels.backends import Backends
from ...kernels.choice import ATTEND_ACROSS_FRAMES, KernelSet, KernelUse, can_span_frames
from ..attention import TEMPORAL, BlockHooks, attend
from ..base import LayerMaker
from ..positional import rotate
from ..residual import Stream, settled


def plain_kernels() -> KernelSet:
    """Return what leaves everything to torch's operators."""
    return KernelSet(use=KernelUse.NEVER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What every block of one call shares.

    Args:
        num_frames: token frames of the clip; frames behind them are images.
        hooks: what a host does in the place of attention.
        temporal_table: (F, D) to add before the first temporal attention, or None.
        rotation: (2, F, D/N/2), see `rotary_table`, for temporal attention, or None.
        is_temporal: False leaves temporal attention (and temporal blocks) out.
        kernels: may take the place of torch's operators.
        carries: a block leaves its last sum to the norm of the next one.
    """

    num_frames: int
    hooks: BlockHooks
    temporal_table: Tensor | None
    rotation: Tensor | None
    is_temporal: bool
    kernels: KernelSet = field(default_factory=plain_kernels)
    carries: bool = False


class FusedAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Args:
        width: token width D.
        heads: attention heads N.
    """

    def __init__(self, width: int, heads: int, make: LayerMaker) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = make.linear(width, 3 * width)
        self.proj = make.linear(width, width)

    def spatial(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """Attend within each frame: (B, F, S, D) -> the same."""
        q, k, v = self.qkv(tokens.flatten(0, 1)).chunk(3, dim=2)  # (B F) S D
        attention = run.hooks.attention_with(run.kernels)
        attended = attention(q, k, v, self.heads, kind="spatial", block_index=index)
        if run.hooks.attn_output_hook is not None:
            attended = run.hooks.attn_output_hook(index, self.heads, attended)
        return self.proj(attended).view_as(tokens)

    def temporal(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """Attend across frames at each place: (B, F, S, D) -> the same."""
        is_plain = run.hooks.leaves_frames and run.rotation is None
        head_width = tokens.shape[3] // self.heads
        if (
            is_plain
            and can_span_frames(run.num_frames, head_width)
            and run.kernels.is_active(tokens)
        ):
            return self.temporal_in_order(tokens, run)
        return self.temporal_by_place(tokens, run, index)

    def temporal_in_order(self, tokens: Tensor, run: Pass) -> Tensor:
        """Attend across frames where the tokens lie: (B, F, S, D) -> the same."""
        rows: Tensor = self.qkv(tokens).flatten(1, 2)  # B F*S 3D
        q, k, v = rows.view(*rows.shape[:2], 3, self.heads, -1).unbind(2)  # B F*S N D/N
        plain = partial(attend_at_places, backends=run.kernels.backends)
        attended = run.kernels.run(ATTEND_ACROSS_FRAMES, plain, q, k, v, run.num_frames)
        return self.proj(attended).view_as(tokens)

    def temporal_by_place(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """Attend across frames in the layout that every attention knows, (B*S, F, D)."""
        along_time = rearrange(tokens, "b f s d -> (b s) f d")
        q, k, v = self.qkv(along_time).chunk(3, dim=2)  # (B S) F D
        if run.rotation is not None:
            q, k = rotate(q, self.heads, run.rotation), rotate(k, self.heads, run.rotation)
        attention = run.hooks.attention_with(run.kernels)
        attended = attention(q, k, v, self.heads, kind=TEMPORAL, block_index=index)
        return rearrange(self.proj(attended), "(b s) f d -> b f s d", b=tokens.shape[0])


def attend_at_places(
    q: Tensor, k: Tensor, v: Tensor, num_frames: int, backends: Backends | None = None
) -> Tensor:
    """Attend across the frames at each place with torch's kernel.

    Args:
        q, k, v: (B, F*S, N, D/N), frames outermost, of any strides.
        num_frames: F.
        backends: of the model.

    Returns:
        (B, F*S, D).
    """
    batch = q.shape[0]
    q, k, v = (rearrange(t, "b (f s) n c -> (b s) f n c", f=num_frames) for t in (q, k, v))
    attended = attend(q, k, v, backends=backends, across_frames=True)
    return rearrange(attended, "(b s) f d -> b (f s) d", b=batch)


def spread_to_frames(rows: Tensor, num_frames: int) -> Tensor:
    """Repeat the clip's row for its F frames: (B, 1 + I, ...) -> (B, F + I, ...); R = 1 stays."""
    if rows.shape[1] == 1:
        return rows
    clip = rows[:, :1].expand(-1, num_frames, *rows.shape[2:])
    return torch.cat([clip, rows[:, 1:]], dim=1)


def on_clip(hidden: Tensor, run: Pass, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the clip's frames; images behind them pass unchanged."""
    if hidden.shape[1] == run.num_frames:
        return apply(hidden)
    images = hidden[:, run.num_frames :]
    return torch.cat([apply(hidden[:, : run.num_frames]), images], dim=1)


def stream_on_clip(stream: Stream, run: Pass, apply: Callable[[Stream], Stream]) -> Stream:
    """Do as `on_clip`, with sums still owed where there are no images."""
    if stream.shape[1] == run.num_frames:
        return apply(stream)
    hidden = settled(stream, run.kernels)
    return on_clip(hidden, run, lambda clip: settled(apply(clip), run.kernels))


def add_temporal_table(clip: Tensor, run: Pass) -> Tensor:
    """Add the temporal table (F, D), where there is one, to a clip (B, F, S, D)."""
    if run.temporal_table is None:
        return clip
    return clip + run.temporal_table[:, None].to(clip.dtype)
