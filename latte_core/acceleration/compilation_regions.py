"""What is compiled of a Latte: one call of a block, as a function of tensors and sizes alone.

A block is called with a record of the whole run, of which it reads its own text keys and values, a
few sizes and the hooks. Handed over piece by piece, that is the same for every layer, so that one
graph serves all of them; see docs/acceleration.md 8.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import IncompatibleInputsError
from ..kernels.choice import KernelSet, KernelUse
from ..model.attention import DEFAULT_HOOKS, BlockHooks
from ..model.latte import blocks as class_blocks
from ..model.latte.transformer import Latte
from ..model.layers import modulation_rows
from ..model.residual import Stream, settled
from ..model.t2v import blocks as text_blocks
from ..model.t2v.transformer import LatteT2V

Region = Callable[..., Tensor]
"""A block's forward as a function of the block, tensors and sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionCall:
    """One call of a region.

    Args:
        region: function to compile.
        key: sizes for which a graph is made; another key is another graph.
        arguments: of the region.
        text: tensors among them, each with its axis that is the text, of any length.
    """

    region: Region
    key: Hashable
    arguments: tuple[Any, ...]
    text: tuple[tuple[Tensor, int], ...] = ()


def text_region(
    block: text_blocks.Block,
    hidden: Tensor,
    rows: Tensor,
    keys: Tensor | None,
    values: Tensor | None,
    bias: Tensor | None,
    batch: int,
    num_frames: int,
) -> Tensor:
    """Run a spatial or temporal block of LatteT2V: (B, F*S, D) -> (B, F*S, D).

    Args:
        block: runs.
        hidden: tokens.
        rows: (B or 1, 6, D) modulation of this block.
        keys, values, bias: of the text, for spatial blocks.
        batch, num_frames: B and F.
    """
    tokens = hidden if keys is None else keys
    text = text_blocks.TextFeatures(
        tokens=tokens,
        keys=() if keys is None else (keys,),
        values=() if values is None else (values,),
        bias=bias,
    )
    run = text_blocks.Pass(
        grid=text_blocks.Grid(batch=batch, num_frames=num_frames, rows=0, columns=0),
        text=text,
        hooks=DEFAULT_HOOKS,
        modulation=rows,
        rows=rows,
        temporal_table=None,
        is_temporal=True,
        is_shared=False,
        kernels=KernelSet(use=KernelUse.NEVER),  # the compiler fuses by itself
        carries=False,
    )
    return type(block).forward(block, hidden, rows, rows, run, 0)


def class_region(
    block: class_blocks.LatteBlock,
    hidden: Tensor,
    condition: Tensor,
    temporal_table: Tensor | None,
    rotation: Tensor | None,
    num_frames: int,
    is_temporal: bool,
) -> Tensor:
    """Run a block of Latte, as `Pass` of `model/latte/attention.py` says: (B, F, S, D) both."""
    run = class_blocks.Pass(
        num_frames=num_frames,
        hooks=DEFAULT_HOOKS,
        temporal_table=temporal_table,
        rotation=rotation,
        is_temporal=is_temporal,
    )
    return settled(type(block).forward(block, hidden, condition, run, 0), run.kernels)


def text_call(
    block: text_blocks.Block,
    stream: Stream,
    modulation: Tensor,
    rows: Tensor | None,
    run: text_blocks.Pass,
    index: int,
) -> RegionCall:
    """Take a call of a LatteT2V block to pieces; its modulation and text are made here."""
    hidden = settled(stream, run.kernels)
    if rows is None:
        rows = modulation_rows(block.scale_shift_table, modulation)
    keys = values = bias = None
    if isinstance(block, text_blocks.SpatialBlock):
        text, attention = run.text, block.attn2
        keys = text.keys[index] if text.keys else attention.to_k(text.tokens)
        values = text.values[index] if text.values else attention.to_v(text.tokens)
        bias = text.bias
    frames, text_axes = run.grid.num_frames, ((keys, 1), (values, 1), (bias, 2))
    key = (text_region, type(block), *_sizes(hidden), rows.shape[0], run.grid.batch, frames)
    return RegionCall(
        region=text_region,
        key=key,
        arguments=(block, hidden, rows, keys, values, bias, run.grid.batch, frames),
        text=tuple((one, axis) for one, axis in text_axes if one is not None),
    )


def class_call(
    block: class_blocks.LatteBlock,
    hidden: Tensor,
    condition: Tensor,
    run: class_blocks.Pass,
    index: int,
) -> RegionCall:
    """Take a call of a Latte block to pieces."""
    table = run.temporal_table if block.adds_temporal_table else None
    key = (class_region, type(block), *_sizes(hidden), run.num_frames, block.adds_temporal_table)
    return RegionCall(
        region=class_region,
        key=key,
        arguments=(
            block,
            hidden,
            condition,
            table,
            run.rotation,
            run.num_frames,
            run.is_temporal,
        ),
    )


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, Callable[..., RegionCall]]]:
    """Return the blocks of a Latte, each with what takes its calls to pieces.

    Raises:
        IncompatibleInputsError: for any other model.
    """
    if isinstance(model, LatteT2V):
        kinds = (model.transformer_blocks, model.temporal_transformer_blocks)
        return [(block, text_call) for kind in kinds for block in kind]
    if isinstance(model, Latte):
        return [(block, class_call) for block in model.blocks]
    raise IncompatibleInputsError(
        f"Only the blocks of Latte are compiled here, but this model is a {type(model).__name__}. "
        "Leave compiling out, or load a Latte model."
    )


def can_compile(hooks: BlockHooks) -> bool:
    """Whether nothing of a host or a cache takes part inside the block."""
    return hooks.is_default_attention and hooks.attn_output_hook is None


def _sizes(hidden: Tensor) -> tuple[Any, ...]:
    """Return what a graph depends on besides the block: tokens, and whether gradients are kept."""
    mode = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    return (*hidden.shape, hidden.dtype, hidden.device, *mode)
