"""Operators of eight-bit layers: rows quantised where they are made, products with their scales.

A linear layer in eight bits reads tokens as `rows.Rows`; its result is scaled by row and by column.
Rows come straight from what makes the tokens (a norm, GELU), so that these are never written in 16
bits; scales, bias and cast belong to the product. A product of torch's own that returns whole
numbers leaves them as `rows.Sums`, which are scaled by whatever reads them next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import ops
from .ops import (
    ROW_ELEMENTS,
    define,
    is_cut_off,
    on_device_of,
    power_of_two,
    row_stride,
    written_like,
)
from .rows import Sums

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}  # numbers of each format
TILES = ((64, 128, 64, 4, 3), (128, 128, 64, 4, 4), (128, 128, 128, 8, 3), (128, 256, 128, 8, 3))
"""Rows, columns, depth, warps and stages of a product's program, as in `ops.TILES`."""


def programs() -> Any:
    """Import the programs.

    Raises:
        MissingDependencyError: if there is no Triton, or one that does not import.
    """
    ops.programs()  # what needs Triton says so there
    from . import eight_bit_programs as found

    return found


def is_emulated(kind: torch.dtype, tensor: Tensor) -> bool:
    """Whether fp8 is kept in float32: Triton's interpreter computes it in another rounding."""
    return kind.is_floating_point and tensor.device.type == "cpu"


def eight_bit_like(tensor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return memory for rows (M, K) and scales (M, 1); the rows to be cast to `kind` in the end."""
    rows = tensor.numel() // tensor.shape[-1]
    dtype = torch.float32 if is_emulated(kind, tensor) else kind
    values = tensor.new_empty(rows, tensor.shape[-1], dtype=dtype)
    return values, tensor.new_empty(rows, 1, dtype=torch.float32)


def launch_rows(
    given: Tensor,
    factors: tuple[Tensor | None, Tensor | None, Tensor | None],
    out: Tensor,
    out_scales: Tensor | None,
    kind: torch.dtype | None,
    gelu: bool,
) -> None:
    """Run `rows_program`; `kind` is None for results that are no eight-bit rows."""
    width = given.shape[-1]
    rows = given.numel() // width
    columns = power_of_two(width)
    tile = max(1, ROW_ELEMENTS // columns)
    row_scales, scales, bias = factors
    with on_device_of(given):
        programs().rows_program[(-(-rows // tile),)](
            given,
            given if row_scales is None else row_scales,
            given if scales is None else scales,
            given if bias is None else bias,
            out,
            out if out_scales is None else out_scales,
            rows,
            width,
            IS_SUMS=scales is not None,
            HAS_BIAS=bias is not None,
            HAS_GELU=gelu,
            IS_EIGHT_BIT=kind is not None,
            LARGEST=LARGEST[kind] if kind is not None else 0.0,
            IS_WHOLE_NUMBER=kind == torch.int8,
            ROWS=tile,
            COLUMNS=columns,
            num_warps=8 if columns > ROW_ELEMENTS else 4,
            enable_fp_fusion=True,
        )


def token_rows(
    given: Tensor,
    row_scales: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    gelu: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """(..., K) tokens, or sums with their scales -> eight-bit rows (M, K) and scales (M, 1).

    `gelu` applies GELU in its tanh form before.
    """
    values, found = eight_bit_like(given, kind)
    launch_rows(given, (row_scales, scales, bias), values, found, kind, gelu)
    return values.to(kind), found


def scaled_sums(
    total: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(M, N) int32, (M, 1), (N, 1), (N,) -> total * row_scales * scales.T + bias, (M, N)."""
    out = total.new_empty(total.shape, dtype=dtype)
    out = written_like(out) if is_cut_off(out) else out
    launch_rows(total, (row_scales, scales, bias), out, None, None, False)
    return out.to(dtype)


def launch_sum_norm_rows(
    hidden: Tensor,
    update: Tensor | None,
    factors: tuple[Tensor | None, Tensor | None, Tensor | None],
    gate: Tensor | None,
    rows: tuple[Tensor, Tensor] | None,
    eps: float,
    kind: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum, its norm in eight bits and scales; `hidden` for what was not asked for."""
    batch, width = hidden.shape[0], hidden.shape[-1]
    count = hidden.numel() // (batch * width)  # rows of each video
    shift, factor = rows or (None, None)
    row_scales, scales, bias = factors
    columns = power_of_two(width)
    tile = max(1, ROW_ELEMENTS // columns)
    total = hidden if update is None else written_like(hidden)
    normed = normed_scales = hidden
    if kind is not None:
        normed, normed_scales = eight_bit_like(hidden, kind)
    with on_device_of(hidden):
        programs().sum_norm_rows_program[(batch * -(-count // tile),)](
            hidden,
            hidden if update is None else update,
            hidden if row_scales is None else row_scales,
            hidden if scales is None else scales,
            hidden if bias is None else bias,
            hidden if gate is None else gate,
            hidden if shift is None else shift,
            hidden if factor is None else factor,
            total,
            normed,
            normed_scales,
            count,
            width,
            row_stride(gate),
            row_stride(shift),
            row_stride(factor),
            eps,
            HAS_UPDATE=update is not None,
            IS_SUMS=scales is not None,
            HAS_BIAS=bias is not None,
            HAS_GATE=gate is not None,
            HAS_NORM=rows is not None,
            LARGEST=LARGEST[kind] if kind is not None else 0.0,
            IS_WHOLE_NUMBER=kind == torch.int8,
            ROWS=tile,
            COLUMNS=columns,
            num_warps=8 if columns > ROW_ELEMENTS else 4,
            enable_fp_fusion=True,
        )
    return total.to(hidden.dtype), normed if kind is None else normed.to(kind), normed_scales


def norm_rows(
    hidden: Tensor, shift: Tensor, factor: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, ..., D), rows (B or 1, 1..., D) -> `ops.modulated_norm` as eight-bit rows and scales."""
    none = (None, None, None)
    return launch_sum_norm_rows(hidden, None, none, None, (shift, factor), eps, kind)[1:]


def gated_sum_norm_rows(
    hidden: Tensor,
    update: Tensor,
    row_scales: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    factor: Tensor,
    eps: float,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `ops.gated_sum`, and `norm_rows` of it; the update may be sums with their scales."""
    factors = row_scales, scales, bias
    return launch_sum_norm_rows(hidden, update, factors, gate, (shift, factor), eps, kind)


def gated_sum_of_sums(
    hidden: Tensor,
    total: Tensor,
    row_scales: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
) -> Tensor:
    """Return `ops.gated_sum` of hidden and scaled sums."""
    factors = row_scales, scales, bias
    return launch_sum_norm_rows(hidden, total, factors, gate, None, 0.0, None)[0]


def eight_bit_linear(
    values: Tensor,
    row_scales: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    tile: int,
) -> Tensor:
    """(M, K), (M, 1), (N, K), (N, 1), (N,) -> (values * row_scales) @ (weight * scales).T + bias.

    `tile` is a place in `TILES`; the result (M, N) is of type `dtype`.
    """
    columns, width = weight.shape
    rows = values.shape[0]
    row_tile, column_tile, depth, warps, stages = TILES[tile]
    out = values.new_empty(rows, columns, dtype=dtype)
    out = written_like(out) if is_cut_off(out) else out
    if is_emulated(weight.dtype, weight):
        values, weight = values.float(), weight.float()
    with on_device_of(values):
        programs().linear_program[(-(-rows // row_tile) * -(-columns // column_tile),)](
            values,
            row_scales,
            weight,
            scales,
            scales if bias is None else bias,
            out,
            rows,
            columns,
            width,
            IS_WHOLE=width % depth == 0,
            IS_INTEGER=not weight.dtype.is_floating_point,
            HAS_BIAS=bias is not None,
            ROWS=row_tile,
            COLUMNS=column_tile,
            DEPTH=depth,
            GROUP=8,
            num_warps=warps,
            num_stages=stages,
            enable_fp_fusion=True,
        )
    return out.to(dtype)


def like_rows(given: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return eight-bit rows of tokens and their scales, without values."""
    rows = given.numel() // given.shape[-1]
    values = given.new_empty(rows, given.shape[-1], dtype=kind)
    return values, given.new_empty(rows, 1, dtype=torch.float32)


def like_token_rows(given: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Return what `token_rows` and `norm_rows` return, without values."""
    return like_rows(given, rest[-1])


def like_sum_and_rows(hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `gated_sum_norm_rows` returns, without values."""
    return torch.empty_like(hidden), *like_rows(hidden, rest[-1])


def like_scaled_sums(total: Tensor, *rest: Any) -> Tensor:
    """Return what `scaled_sums` returns, without values."""
    return total.new_empty(total.shape, dtype=rest[-1])


def like_sum(hidden: Tensor, *_: Any) -> Tensor:
    """Return what `gated_sum_of_sums` returns, without values."""
    return torch.empty_like(hidden)


def like_product(
    values: Tensor,
    row_scales: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Any,
    dtype: Any,
    _: Any,
) -> Tensor:
    """Return what `eight_bit_linear` returns, without values."""
    return values.new_empty(values.shape[0], weight.shape[0], dtype=dtype)


MAYBE = "Tensor? row_scales, Tensor? scales, Tensor? bias"
GIVEN = "Tensor row_scales, Tensor scales, Tensor? bias"
NORM = "Tensor shift, Tensor factor, float eps, ScalarType kind"
OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    (
        f"token_rows(Tensor given, {MAYBE}, bool gelu, ScalarType kind) -> (Tensor, Tensor)",
        token_rows,
        like_token_rows,
    ),
    (
        f"scaled_sums(Tensor total, {GIVEN}, ScalarType dtype) -> Tensor",
        scaled_sums,
        like_scaled_sums,
    ),
    (f"norm_rows(Tensor hidden, {NORM}) -> (Tensor, Tensor)", norm_rows, like_token_rows),
    (
        f"gated_sum_norm_rows(Tensor hidden, Tensor update, {MAYBE}, Tensor? gate, {NORM}) -> "
        "(Tensor, Tensor, Tensor)",
        gated_sum_norm_rows,
        like_sum_and_rows,
    ),
    (
        f"gated_sum_of_sums(Tensor hidden, Tensor total, {GIVEN}, Tensor? gate) -> Tensor",
        gated_sum_of_sums,
        like_sum,
    ),
    (
        "eight_bit_linear(Tensor values, Tensor row_scales, Tensor weight, Tensor scales, "
        "Tensor? bias, ScalarType dtype, int tile) -> Tensor",
        eight_bit_linear,
        like_product,
    ),
)

(
    TOKEN_ROWS,
    SCALED_SUMS,
    NORM_ROWS,
    GATED_SUM_NORM_ROWS,
    GATED_SUM_OF_SUMS,
    EIGHT_BIT_LINEAR,
) = (define(*one) for one in OPERATORS)


def scaled(sums: Sums) -> Tensor:
    """Return the result that sums stand for."""
    return SCALED_SUMS(sums.total, *sums.factors, sums.dtype).view(sums.shape)
