"""The spatial and the temporal block of LatteT2V (docs/model.md 5.6).

Tokens stay in one layout, (B, F*S, D) with frames outermost, from the first block to the last. Only
attention regroups them: spatial attention sees (B*F, S, D), which is a view, and so is what torch's
own attention across frames reads; another attention across frames is given copies (B*S, F, D).
Modulation and feed-forward do not care about grouping, so they work with one row of modulation for
each video, or one for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...config.t2v import LatteT2VConfig
from ...errors import IncompatibleInputsError
from ...kernels.choice import ATTEND_ACROSS_FRAMES, KernelSet
from ..attention import TEMPORAL, Attention, BlockHooks, attend, attend_across_frames
from ..base import LayerMaker
from ..eight_bit import Tokens
from ..layers import FeedForward, modulation_rows
from ..residual import Owed, Stream, settled, settled_rows

TEXT_LENGTHS = (16, 32, 64, 128)  # of texts where each length costs a graph
PADDING_LOGIT = -30000.0  # lower than that of masked rows: a text that is masked whole stays so


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How a token sequence of length F*S is laid out."""

    batch: int
    num_frames: int
    rows: int
    columns: int


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

    def padded(self) -> TextFeatures:
        """Return the same with rows behind the last that nobody attends to, up to a usual length.

        Graphs are made for a length, so that few lengths are few graphs. Results differ by rounding
        alone. There is a bias in any case.
        """
        length = self.tokens.shape[1]
        missing = padded_length(length) - length
        if not missing and self.bias is not None:
            return self
        bias = self.bias
        if bias is None:
            bias = self.tokens.new_zeros(self.tokens.shape[0], 1, length)
        return TextFeatures(
            tokens=F.pad(self.tokens, (0, 0, 0, missing)),
            keys=padded_rows(self.keys, missing),
            values=padded_rows(self.values, missing),
            bias=F.pad(bias, (0, missing), value=PADDING_LOGIT),
        )

    def spread(self, grid: Grid) -> TextFeatures:
        """Let one prompt serve all videos.

        Raises:
            IncompatibleInputsError: if the count fits neither the videos nor their frames.
        """
        count = self.tokens.shape[0]
        if count in (grid.batch, grid.batch * grid.num_frames):
            return self
        if count != 1:
            raise IncompatibleInputsError(
                f"There are {count} text conditionings for {grid.batch} videos of "
                f"{grid.num_frames} frames; expected one for all, one per video or one per frame."
            )
        return TextFeatures(
            tokens=self.tokens.expand(grid.batch, -1, -1),
            keys=repeated(self.keys, grid.batch),
            values=repeated(self.values, grid.batch),
            bias=None if self.bias is None else self.bias.expand(grid.batch, -1, -1),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What every block of one call shares.

    Args:
        grid: layout of the tokens.
        text: what cross-attention reads.
        hooks: what a host does in the place of attention and around blocks.
        modulation: (B, 6, D) of the timesteps, or (1, 6, D) of one timestep for all videos.
        rows: (blocks, B or 1, 6, D), `modulation_rows` of all spatial blocks, then of all temporal
            ones; None if each block makes its own.
        temporal_table: (1 or B, F, 1, D) to add before the first temporal block, or None.
        is_temporal: False leaves temporal blocks out.
        is_shared: the two halves of the batch are the same until they meet the text.
        kernels: may take the place of torch's operators.
        carries: a block leaves its last sum to the norm of the next one.
    """

    grid: Grid
    text: TextFeatures
    hooks: BlockHooks
    modulation: Tensor
    rows: Tensor | None
    temporal_table: Tensor | None
    is_temporal: bool
    is_shared: bool
    kernels: KernelSet
    carries: bool

    def rows_for(self, block: int, modulation: Tensor) -> Tensor | None:
        """Return a block's rows, unless there are none or a hook changed the modulation."""
        is_known = self.rows is not None and modulation is self.modulation
        return self.rows[block] if self.rows is not None and is_known else None


def padded_length(length: int) -> int:
    """Return the shortest of the usual lengths that has room for a text."""
    longest = TEXT_LENGTHS[-1]
    whole = -(-length // longest) * longest
    return next((one for one in TEXT_LENGTHS if one >= length), whole)


def padded_rows(rows: tuple[Tensor, ...], missing: int) -> tuple[Tensor, ...]:
    """Return (B, L, D) each as (B, L + missing, D), with zeros behind."""
    return F.pad(torch.stack(rows), (0, 0, 0, missing)).unbind() if rows else rows


def repeated(rows: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Return (1, L, D) each as (count, L, D): copies, because attention kernels take no others."""
    if not rows or count == 1:
        return rows
    return torch.stack(rows).expand(-1, count, -1, -1).contiguous().unbind()


def doubled(half: Tensor) -> Tensor:
    """Return (b, ...) twice, as (2 * b, ...); a view where `half` is one video."""
    return half.expand(2, *half.shape).flatten(0, 1)


def modulation_table(num_rows: int, width: int, device: Any) -> nn.Parameter:
    """Return initial rows of modulation, random unless they have no storage."""
    # float32 whatever the layers have: hosts that store weights in 8 bits cast only layers
    table = torch.empty(num_rows, width, dtype=torch.float32, device=device)
    if not table.is_meta:  # torch imports its compiler for arithmetic without storage
        table.normal_().div_(width**0.5)
    return nn.Parameter(table)


class Block(nn.Module):
    """What both kinds share: a modulation table, self-attention and a feed-forward layer."""

    def __init__(self, config: LatteT2VConfig, make: LayerMaker) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.eps = config.norm_eps
        self.scale_shift_table = modulation_table(6, width, make.device)
        self.attn1 = Attention(width, make)
        self.ff = FeedForward(width, make)

    def split_rows(self, modulation: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        """Return shift, factor, gate of attention and of feed-forward, each (B or 1, 1, D)."""
        if rows is None:
            rows = modulation_rows(self.scale_shift_table, modulation)
        return rows.chunk(6, dim=1)

    def feed_forward(self, stream: Stream, parts: tuple[Tensor, ...], run: Pass) -> Stream:
        """Return hidden + gate * FF(modulated LayerNorm of hidden).

        Args:
            stream: tokens.
            parts: shift, factor and gate.
            run: what all blocks share.
        """
        shift, factor, gate = parts
        reader = self.ff.reader
        hidden, tokens = settled_rows(stream, shift, factor, self.eps, run.kernels, reader)
        del stream  # its parts are not needed beside the widest layer
        owed = Owed(hidden, self.ff(tokens, run.kernels), gate)
        return owed if run.carries else settled(owed, run.kernels)


class SpatialBlock(Block):
    """Self-attention within each frame, cross-attention to the text, feed-forward."""

    def __init__(self, config: LatteT2VConfig, make: LayerMaker) -> None:
        super().__init__(config, make)
        self.attn2 = Attention(config.hidden_size, make)

    def forward(
        self, stream: Stream, modulation: Tensor, rows: Tensor | None, run: Pass, index: int
    ) -> Stream:
        """(B, F*S, D) -> (B, F*S, D); half of a shared batch comes out whole.

        Args:
            stream: tokens.
            modulation: (B or 1, 6, D).
            rows: (B or 1, 6, D) of this block if they are made already.
            run: what all blocks share.
            index: of the pair of blocks.
        """
        parts = self.split_rows(modulation, rows)
        # nested, so that nothing is kept under a name through the feed-forward layer
        return self.feed_forward(
            self.add_text(self.add_frames(stream, parts, run, index), run, index), parts[3:], run
        )

    def add_frames(
        self, stream: Stream, parts: tuple[Tensor, ...], run: Pass, index: int
    ) -> Tensor:
        """Attend within frames: (B, F*S, D) -> (B, F*S, D); `parts` are those of `split_rows`."""
        shift, factor, gate = (part[: stream.shape[0]] for part in parts[:3])
        reader = self.attn1.readers[0]
        hidden, tokens = settled_rows(stream, shift, factor, self.eps, run.kernels, reader)
        tokens = tokens.view(hidden.shape[0] * run.grid.num_frames, -1, hidden.shape[2])
        attended = self.attend_within_frames(tokens, run, index)
        update = self.attn1.update_of(attended, run.kernels).view(*hidden.shape)
        return settled(Owed(hidden, update, gate), run.kernels)

    def attend_within_frames(self, tokens: Tokens, run: Pass, index: int) -> Tensor:
        """(B*F, S, D) -> (B*F, S, D), before the output projection."""
        q, k, v = self.attn1.project(tokens, self.heads)
        hooks = run.hooks
        if hooks.is_default_attention:
            attended = attend(q, k, v, backends=run.kernels.backends)
        else:
            q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
            attended = hooks.attention(q, k, v, self.heads, kind="spatial", block_index=index)
        if hooks.attn_output_hook is not None:
            attended = hooks.attn_output_hook(index, self.heads, attended)
        return attended

    def add_text(self, hidden: Tensor, run: Pass, index: int) -> Stream:
        """Cross-attend without norm, modulation or gate; all frames of a prompt in one call."""
        text, width = run.text, hidden.shape[2]
        queries = self.attn2.to_q(hidden)  # B or B/2, F*S, D
        is_half = hidden.shape[0] < run.grid.batch
        if is_half:
            queries = doubled(queries).contiguous()  # attention kernels take no rows at one place
        attention = run.hooks.attention_with(run.kernels)
        attended = attention(
            queries.reshape(text.tokens.shape[0], -1, width),
            text.keys[index] if text.keys else self.attn2.to_k(text.tokens),
            text.values[index] if text.values else self.attn2.to_v(text.tokens),
            self.heads,
            mask=text.bias,
            kind="cross",
            block_index=index,
        )
        if not is_half:
            update = self.attn2.update_of(attended, run.kernels)
            return Owed(hidden, update.view(run.grid.batch, -1, width), None)
        update = self.attn2.project_out(attended)
        return (hidden + update.view(2, *hidden.shape)).flatten(0, 1)


class TemporalBlock(Block):
    """Self-attention across the frames at each place, feed-forward."""

    def forward(
        self, stream: Stream, modulation: Tensor, rows: Tensor | None, run: Pass, index: int
    ) -> Stream:
        """(B, F*S, D) -> (B, F*S, D); arguments as in `SpatialBlock`."""
        parts = self.split_rows(modulation, rows)
        # nested, as in `SpatialBlock`
        return self.feed_forward(self.add_time(stream, parts, run, index), parts[3:], run)

    def add_time(self, stream: Stream, parts: tuple[Tensor, ...], run: Pass, index: int) -> Stream:
        """Attend across frames; `parts` are those of `split_rows`."""
        is_single = run.grid.num_frames == 1 and not torch.is_grad_enabled()
        is_direct = is_single or run.hooks.leaves_frames
        reader = self.attn1.readers[0] if is_direct else None
        hidden, tokens = settled_rows(stream, parts[0], parts[1], self.eps, run.kernels, reader)
        if is_single:
            # One frame attends to itself alone. With gradients, queries and keys take part all the
            # same: theirs are zero, not missing, which wrappers for several processes insist on.
            update = self.attn1.update_of(self.attn1.project_values(tokens), run.kernels)
        elif run.hooks.leaves_frames:
            q, k, v = self.attn1.project(tokens, self.heads)
            plain = partial(attend_across_frames, backends=run.kernels.backends)
            attended = run.kernels.run(ATTEND_ACROSS_FRAMES, plain, q, k, v, run.grid.num_frames)
            update = self.attn1.update_of(attended, run.kernels)
        else:
            assert isinstance(tokens, Tensor)  # without a reader
            update = self.attend_through_hook(tokens, run, index)
        return Owed(hidden, update, parts[2])

    def attend_through_hook(self, tokens: Tensor, run: Pass, index: int) -> Tensor:
        """(B, F*S, D) -> (B, F*S, D), in the layout that every attention knows, (B*S, F, D)."""
        tokens = rearrange(tokens, "b (f s) d -> (b s) f d", f=run.grid.num_frames)
        q, k, v = (t.flatten(2) for t in self.attn1.project(tokens, self.heads))
        attended = run.hooks.attention(q, k, v, self.heads, kind=TEMPORAL, block_index=index)
        update = self.attn1.project_out(attended)
        return rearrange(update, "(b s) f d -> b (f s) d", b=run.grid.batch)
