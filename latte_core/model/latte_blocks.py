"""The blocks of Latte in the paper's four arrangements (latte.md 2.5 and 4).

Tokens are (B, F, S, D) from the first block to the last: F frames (or tubelets), S places in each.
Spatial attention sees (B*F, S, D), temporal attention (B*S, F, D). Modulation is computed once for
each video, and for each image that is trained beside it, never once for each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..latte_config import LatteConfig
from .attention import BlockHooks
from .layers import modulate, normalize

EPS = 1e-6
ROTARY_BASE = 10000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What steers the modulation: (B, D) of each clip and (B, I, D) of the images beside it."""

    clip: Tensor
    images: Tensor | None = None

    def per_frame(self, num_frames: int) -> Tensor:
        """Return (B, 1, D), or (B, F + I, D) where images have conditions of their own."""
        clip = self.clip[:, None]
        if self.images is None:
            return clip
        return torch.cat([clip.expand(-1, num_frames, -1), self.images], dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What every block of one call shares.

    Args:
        condition: see `Condition`; None where timestep and label are tokens.
        num_frames: token frames of the clip; frames behind them are images.
        hooks: what a host does in the place of attention.
        temporal_table: (F, D) to add before the first temporal attention, or None.
        is_temporal: False leaves temporal attention (and temporal blocks) out.
    """

    condition: Condition | None
    num_frames: int
    hooks: BlockHooks
    temporal_table: Tensor | None
    is_temporal: bool


class FusedAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Args:
        width: token width D.
        heads: attention heads.
        is_rotary: turn queries and keys by their position along the sequence.
    """

    def __init__(
        self, width: int, heads: int, is_rotary: bool, *, operations: Any, dtype: Any, device: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        self.is_rotary = is_rotary
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def attend(self, tokens: Tensor, hooks: BlockHooks, kind: str, index: int) -> Tensor:
        """(N, T, D) -> (N, T, D), before the output projection."""
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        if self.is_rotary:
            q, k = rotate(q, self.heads), rotate(k, self.heads)
        attended = hooks.attention(q, k, v, self.heads, kind=kind, block_index=index)
        if kind == "spatial" and hooks.attn_output_hook is not None:
            attended = hooks.attn_output_hook(index, self.heads, attended)
        return attended

    def spatial(self, tokens: Tensor, hooks: BlockHooks, index: int) -> Tensor:
        """Attend within each frame: (B, F, S, D) -> the same."""
        attended = self.attend(tokens.flatten(0, 1), hooks, "spatial", index)
        return self.proj(attended).view_as(tokens)

    def temporal(self, tokens: Tensor, hooks: BlockHooks, index: int) -> Tensor:
        """Attend across frames at each place: (B, F, S, D) -> the same."""
        along_time = rearrange(tokens, "b f s d -> (b s) f d")
        attended = self.proj(self.attend(along_time, hooks, "temporal", index))
        return rearrange(attended, "(b s) f d -> b f s d", b=tokens.shape[0])


def rotate(tokens: Tensor, heads: int) -> Tensor:
    """Turn each pair of neighbouring channels of a head by its position times its frequency.

    (N, T, D) -> (N, T, D); RoFormer's rotary embedding with the frame index as position.
    """
    pairs = rearrange(tokens, "n t (a k c) -> n t a k c", a=heads, c=2)
    count = pairs.shape[3]
    frequency = ROTARY_BASE ** (-torch.arange(count, device=tokens.device).float() / count)
    position = torch.arange(tokens.shape[1], device=tokens.device).float()
    angle = (position[:, None] * frequency).view(1, -1, 1, count)
    cos, sin = angle.cos().to(tokens.dtype), angle.sin().to(tokens.dtype)
    first, second = pairs.unbind(dim=4)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return torch.stack(turned, dim=4).flatten(2)


class FeedForward(nn.Module):
    """Linear, GELU in its tanh form, Linear, under the released names fc1 and fc2."""

    def __init__(self, width: int, inner: int, *, operations: Any, dtype: Any, device: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(width, inner, dtype=dtype, device=device)
        self.fc2 = operations.Linear(inner, width, dtype=dtype, device=device)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden), approximate="tanh"))


def modulation_layer(width: int, parts: int, **made_by: Any) -> nn.ModuleList:
    """Return SiLU and Linear under the released names adaLN_modulation.0 and .1."""
    linear = made_by["operations"].Linear(
        width, parts * width, dtype=made_by["dtype"], device=made_by["device"]
    )
    return nn.ModuleList([nn.SiLU(), linear])


class LatteBlock(nn.Module):
    """What all blocks share: an attention, a feed-forward layer and their modulation."""

    def __init__(
        self,
        config: LatteConfig,
        *,
        is_temporal: bool = False,
        operations: Any,
        dtype: Any,
        device: Any,
    ) -> None:
        super().__init__()
        made_by: dict[str, Any] = {"operations": operations, "dtype": dtype, "device": device}
        width = config.hidden_size
        rotary = config.temporal_positions == "rotary"
        heads = config.attention_heads
        self.attn = FusedAttention(width, heads, rotary and is_temporal, **made_by)
        if config.variant in (3, 4):
            self.attn_temp = FusedAttention(width, heads, rotary, **made_by)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), **made_by)
        self.is_modulated = config.injection == "adaln"
        if self.is_modulated:
            self.adaLN_modulation = modulation_layer(width, 6, **made_by)

    def rows(self, condition: Tensor | None) -> list[Tensor | None]:
        """Return shift, scale, gate of attention and of feed-forward, each (B, 1 or F, 1, D)."""
        if condition is None:
            return [None] * 6
        modulation = self.adaLN_modulation[1](F.silu(condition))
        return list(modulation.unsqueeze(2).chunk(6, dim=3))

    def feed_forward(self, hidden: Tensor, rows: list[Tensor | None]) -> Tensor:
        """Return hidden + gate * FF(modulated LayerNorm of hidden)."""
        return gated(hidden, rows[5], self.mlp(norm(hidden, rows[3], rows[4])))


def norm(hidden: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """LayerNorm, modulated if there is a modulation."""
    plain = normalize(hidden, EPS)
    return plain if shift is None or scale is None else modulate(plain, shift, scale)


def gated(hidden: Tensor, gate: Tensor | None, update: Tensor) -> Tensor:
    """Return hidden + gate * update, or their sum without a gate."""
    return hidden + update if gate is None else torch.addcmul(hidden, gate, update)


def frame_condition(run: Pass) -> Tensor | None:
    """Return what modulates spatial attention: (B, 1 or F + I, D)."""
    return None if run.condition is None else run.condition.per_frame(run.num_frames)


def clip_condition(run: Pass) -> Tensor | None:
    """Return what modulates temporal blocks: (B, 1, D)."""
    return None if run.condition is None else run.condition.clip[:, None]


def on_clip(hidden: Tensor, run: Pass, apply: Any) -> Tensor:
    """Apply a function to the clip's frames; images behind them pass unchanged."""
    if hidden.shape[1] == run.num_frames:
        return apply(hidden)
    images = hidden[:, run.num_frames :]
    return torch.cat([apply(hidden[:, : run.num_frames]), images], dim=1)


def add_table(hidden: Tensor, run: Pass) -> Tensor:
    """Add the temporal table (F, D) to a clip (B, F, S, D)."""
    if run.temporal_table is None:
        return hidden
    return hidden + run.temporal_table[:, None].to(hidden.dtype)


class SpatialBlock(LatteBlock):
    """Attention within each frame, feed-forward (variants 1 and 2)."""

    def forward(self, hidden: Tensor, run: Pass, index: int, is_first: bool) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D)."""
        rows = self.rows(frame_condition(run))
        update = self.attn.spatial(norm(hidden, rows[0], rows[1]), run.hooks, index)
        return self.feed_forward(gated(hidden, rows[2], update), rows)


class TemporalBlock(LatteBlock):
    """Attention across the frames of the clip, feed-forward (variants 1 and 2)."""

    def forward(self, hidden: Tensor, run: Pass, index: int, is_first: bool) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D)."""
        if not run.is_temporal:
            return hidden
        rows = self.rows(clip_condition(run))

        def apply(clip: Tensor) -> Tensor:
            clip = add_table(clip, run) if is_first else clip
            update = self.attn.temporal(norm(clip, rows[0], rows[1]), run.hooks, index)
            return self.feed_forward(gated(clip, rows[2], update), rows)

        return on_clip(hidden, run, apply)


class SplitBlock(LatteBlock):
    """Spatial attention, then temporal attention, then feed-forward (variant 3)."""

    def forward(self, hidden: Tensor, run: Pass, index: int, is_first: bool) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D); both attentions share shift, scale and gate."""
        rows = self.rows(frame_condition(run))
        update = self.attn.spatial(norm(hidden, rows[0], rows[1]), run.hooks, index)
        hidden = gated(hidden, rows[2], update)
        if run.is_temporal:
            has_images = hidden.shape[1] > run.num_frames
            of_clip = self.rows(clip_condition(run)) if has_images else rows

            def apply(clip: Tensor) -> Tensor:
                clip = add_table(clip, run) if is_first else clip
                tokens = norm(clip, of_clip[0], of_clip[1])
                return gated(clip, of_clip[2], self.attn_temp.temporal(tokens, run.hooks, index))

            hidden = on_clip(hidden, run, apply)
        return self.feed_forward(hidden, rows)


class ParallelBlock(LatteBlock):
    """Spatial and temporal attention side by side, then feed-forward (variant 4)."""

    def forward(self, hidden: Tensor, run: Pass, index: int, is_first: bool) -> Tensor:
        """(B, F, S, D) -> (B, F, S, D); the sum of both attentions is gated once."""
        rows = self.rows(frame_condition(run))
        tokens = norm(hidden, rows[0], rows[1])
        update = self.attn.spatial(tokens, run.hooks, index)
        if run.is_temporal:
            frames = run.num_frames
            across = self.attn_temp.temporal(tokens[:, :frames], run.hooks, index)
            update = torch.cat([update[:, :frames] + across, update[:, frames:]], dim=1)
        return self.feed_forward(gated(hidden, rows[2], update), rows)


def make_blocks(config: LatteConfig, **made_by: Any) -> list[LatteBlock]:
    """Return the blocks in the order in which they run."""
    if config.variant == 3:
        return [SplitBlock(config, **made_by) for _ in range(config.depth)]
    if config.variant == 4:
        return [ParallelBlock(config, **made_by) for _ in range(config.depth)]
    half = config.depth // 2
    blocks: list[LatteBlock] = []
    for index in range(config.depth):
        is_temporal = index % 2 == 1 if config.variant == 1 else index >= half
        is_temporal = is_temporal and config.has_temporal
        kind = TemporalBlock if is_temporal else SpatialBlock
        blocks.append(kind(config, is_temporal=is_temporal, **made_by))
    return blocks
