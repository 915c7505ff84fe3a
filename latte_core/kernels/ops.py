"""The Triton programs as operators of torch, in the namespace `latte`.

As operators they can be traced on meta tensors and stand whole in a compiled graph. They have no
gradients. `choice.py` decides when they take the place of torch's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import MissingDependencyError

ROW_ELEMENTS = 2048  # of a norm's program: as many as its threads keep in registers
ATTENTION_ROWS = 64  # of an attention program; 32 frames are the most that share them
TILES = ((64, 128, 32, 4, 3), (128, 128, 32, 4, 4), (128, 128, 64, 8, 3), (128, 256, 64, 8, 3))
"""Rows, columns, depth, warps and stages of a linear layer's program.

Cards differ in the best; the first needs the least shared memory, 48 KiB in float32.
"""

LIBRARY = torch.library.Library("latte", "FRAGMENT")
DEVICES = ("CPU", "CUDA")  # keys of torch's dispatcher: the interpreter runs on the first


def programs() -> Any:
    """Import the programs.

    Raises:
        MissingDependencyError: if there is no Triton, or one that does not import.
    """
    try:
        from . import programs as found
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        # a library that is missing or of another version, said in one way or another
        raise MissingDependencyError(
            "A fused kernel was called, but Triton is not installed or does not import "
            f'({type(error).__name__}: {error}). Run "pip install triton" (Linux), or leave '
            "kernels to their automatic choice."
        ) from error
    return found


def build_errors() -> tuple[type[Exception], ...]:
    """Return what a program ends in that cannot be built or started on a device.

    Beside Triton's own, where it imports: its compilers and drivers have a C compiler run, look
    for libraries, and assert that they found them.
    """
    plain = (
        *(RuntimeError, ValueError, AttributeError, AssertionError, OSError),
        subprocess.SubprocessError,
    )
    try:
        programs()
    except MissingDependencyError:
        return plain
    from triton.errors import TritonError  # pyright: ignore
    from triton.runtime.errors import OutOfResources  # pyright: ignore

    return (*plain, TritonError, OutOfResources)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one: Triton launches there, wherever its arguments are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def is_cut_off(tensor: Tensor) -> bool:
    """Whether a tensor has a type that Triton's interpreter neither rounds to nor multiplies.

    It cuts bfloat16 off where a processor rounds, and multiplies its bits as whole numbers.
    """
    return tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"


def written_like(tensor: Tensor, *size: int) -> Tensor:
    """Return memory for a program's result, to be cast to the type of `tensor` in the end."""
    dtype = torch.float32 if is_cut_off(tensor) else tensor.dtype
    return tensor.new_empty(size or tensor.shape, dtype=dtype)


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def row_stride(row: Tensor | None) -> int:
    """Return how far apart the rows (B or 1, ..., D) of two videos are, 0 for one for all."""
    return row.stride(0) if row is not None and row.shape[0] > 1 else 0


def launch_sum_norm(
    hidden: Tensor,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the sum and its norm; what was not asked for is `hidden` in its place."""
    batch, width = hidden.shape[0], hidden.shape[-1]
    count = hidden.numel() // (batch * width)  # rows of each video
    shift, factor = rows or (None, None)
    columns = power_of_two(width)
    tile = max(1, ROW_ELEMENTS // columns)
    total = hidden if update is None else written_like(hidden)
    normed = hidden if rows is None else written_like(hidden)
    with on_device_of(hidden):
        programs().sum_norm_program[(batch * -(-count // tile),)](
            hidden,
            hidden if update is None else update,
            hidden if gate is None else gate,
            hidden if shift is None else shift,
            hidden if factor is None else factor,
            total,
            normed,
            count,
            width,
            row_stride(gate),
            row_stride(shift),
            row_stride(factor),
            eps,
            HAS_UPDATE=update is not None,
            HAS_GATE=gate is not None,
            HAS_NORM=rows is not None,
            ROWS=tile,
            COLUMNS=columns,
            num_warps=8 if columns > ROW_ELEMENTS else 4,
            enable_fp_fusion=True,
        )
    return total.to(hidden.dtype), normed.to(hidden.dtype)


def modulated_norm(hidden: Tensor, shift: Tensor, factor: Tensor, eps: float) -> Tensor:
    """(B, ..., D) and rows (B or 1, 1..., D) -> LayerNorm(hidden) * factor + shift, (B, ..., D)."""
    return launch_sum_norm(hidden, rows=(shift, factor), eps=eps)[1]


def gated_sum(hidden: Tensor, update: Tensor, gate: Tensor | None) -> Tensor:
    """(B, ..., D) twice and a row (B or 1, 1..., D), None for ones -> hidden + gate * update."""
    return launch_sum_norm(hidden, update, gate)[0]


def gated_sum_norm(
    hidden: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, factor: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return `gated_sum` and the `modulated_norm` of it."""
    return launch_sum_norm(hidden, update, gate, (shift, factor), eps)


def linear_gelu(tokens: Tensor, weight: Tensor, bias: Tensor, tile: int) -> Tensor:
    """(..., K), (N, K), (N,) -> GELU(tokens @ weight.T + bias) in its tanh form, (..., N).

    `tile` is a place in `TILES`.
    """
    columns, width = weight.shape
    rows = tokens.numel() // width
    row_tile, column_tile, depth, warps, stages = TILES[tile]
    out = written_like(tokens, *tokens.shape[:-1], columns)
    with on_device_of(tokens):
        programs().linear_gelu_program[(-(-rows // row_tile) * -(-columns // column_tile),)](
            tokens,
            weight,
            bias,
            out,
            rows,
            columns,
            width,
            IS_WHOLE=width % depth == 0,
            IN_FLOAT32=is_cut_off(tokens),
            ROWS=row_tile,
            COLUMNS=column_tile,
            DEPTH=depth,
            GROUP=8,
            num_warps=warps,
            num_stages=stages,
            enable_fp_fusion=True,
        )
    return out.to(tokens.dtype)


def attend_across_frames(q: Tensor, k: Tensor, v: Tensor, num_frames: int) -> Tensor:
    """(B, F*S, N, D/N) each, frames outermost and any strides of the first three -> (B, F*S, D)."""
    batch, rows, heads, width = q.shape
    places = rows // num_frames
    frames_tile = power_of_two(num_frames)
    places_tile = max(1, ATTENTION_ROWS // frames_tile)
    out = written_like(q, batch, rows, heads * width)
    with on_device_of(q):
        programs().across_frames_program[(batch * -(-places // places_tile) * heads,)](
            q,
            k,
            v,
            out,
            *(stride for tensor in (q, k, v) for stride in tensor.stride()[:3]),
            places,
            heads,
            width**-0.5,
            FRAMES=num_frames,
            FRAMES_TILE=frames_tile,
            PLACES_TILE=places_tile,
            WIDTH=width,
            WIDTH_TILE=max(16, power_of_two(width)),  # matrix units take 16 at least
            IN_FLOAT32=is_cut_off(q),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out.to(q.dtype)


def like_hidden(hidden: Tensor, *_: Any) -> Tensor:
    """Return what `modulated_norm` and `gated_sum` return, without values."""
    return torch.empty_like(hidden)


def like_hidden_twice(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return what `gated_sum_norm` returns, without values."""
    return torch.empty_like(hidden), torch.empty_like(hidden)


def like_linear(tokens: Tensor, weight: Tensor, *_: Any) -> Tensor:
    """Return what `linear_gelu` returns, without values."""
    return tokens.new_empty(*tokens.shape[:-1], weight.shape[0])


def like_heads(q: Tensor, *_: Any) -> Tensor:
    """Return what `attend_across_frames` returns, without values."""
    return q.new_empty(*q.shape[:2], q.shape[2] * q.shape[3])


ROWS = "Tensor shift, Tensor factor, float eps"
OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    (f"modulated_norm(Tensor hidden, {ROWS}) -> Tensor", modulated_norm, like_hidden),
    ("gated_sum(Tensor hidden, Tensor update, Tensor? gate) -> Tensor", gated_sum, like_hidden),
    (
        f"gated_sum_norm(Tensor hidden, Tensor update, Tensor? gate, {ROWS}) -> (Tensor, Tensor)",
        gated_sum_norm,
        like_hidden_twice,
    ),
    (
        "linear_gelu(Tensor tokens, Tensor weight, Tensor bias, int tile) -> Tensor",
        linear_gelu,
        like_linear,
    ),
    (
        "attend_across_frames(Tensor q, Tensor k, Tensor v, int num_frames) -> Tensor",
        attend_across_frames,
        like_heads,
    ),
)


def define(schema: str, run: Callable[..., Any], shape: Callable[..., Any]) -> Any:
    """Register an operator and return it; one that a second copy of the pack made serves both."""
    name = schema.partition("(")[0]
    library, register_fake = cast("Any", LIBRARY), cast("Any", torch.library).register_fake
    if not hasattr(torch.ops.latte, name):
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in DEVICES:
            library.impl(name, run, key)
        register_fake(f"latte::{name}", shape, lib=LIBRARY)
    return getattr(torch.ops.latte, name).default


MODULATED_NORM, GATED_SUM, GATED_SUM_NORM, LINEAR_GELU, ATTEND_ACROSS_FRAMES = (
    define(*one) for one in OPERATORS
)
