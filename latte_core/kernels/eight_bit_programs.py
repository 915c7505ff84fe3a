"""The Triton programs of eight-bit layers. Importing this module needs Triton.

As in `programs.py` all is computed in float32, rounded once when it is written, and counted on one
axis of the grid. Eight-bit rows are rounded as `precision.formats.quantise_tokens` rounds them, bit
for bit, so divisions are those of IEEE 754: Triton's own `/` may be off by two places.
"""

# Triton's language is typed for its own compiler only.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unscaled(
    sums,  # (rows, columns) float32
    row_scales,  # (rows,) of the tokens
    scales,  # (columns,) of the weight
    bias,  # (columns,)
    row,
    column,
    is_row,
    is_column,
    HAS_BIAS: tl.constexpr,
):
    """Return sums of eight-bit products times both scales, plus the bias."""
    by_row = tl.load(row_scales + row, mask=is_row, other=0.0)
    by_column = tl.load(scales + column, mask=is_column, other=0.0)
    value = sums * by_row[:, None] * by_column[None, :]
    if HAS_BIAS:
        added = tl.load(bias + column, mask=is_column, other=0.0)
        value = value + added.to(tl.float32)[None, :]
    return value


@triton.jit
def store_rounded(
    value,  # (rows, columns) float32, 0 beyond the width
    out,
    out_scales,
    place,
    row,
    inside,
    is_row,
    LARGEST: tl.constexpr,  # magnitude of the format's largest number
    IS_WHOLE_NUMBER: tl.constexpr,
):
    """Write value as eight-bit rows with a scale each."""
    largest = tl.max(tl.abs(value), axis=1)
    # the smallest normal number keeps a token of zeros from dividing by zero
    scale = tl.maximum(
        tl.div_rn(largest, tl.full(largest.shape, LARGEST, tl.float32)), 1.1754944e-38
    )
    # a maximum passes over what is not a number, and the product must not
    is_broken = tl.sum((value != value).to(tl.int32), axis=1) > 0
    scale = tl.where(is_broken, float("nan"), scale)
    tl.store(out_scales + row, scale, mask=is_row)
    ratio = tl.div_rn(value, tl.broadcast_to(scale[:, None], value.shape))
    ratio = tl.minimum(tl.maximum(ratio, -LARGEST), LARGEST)
    if IS_WHOLE_NUMBER:
        # float32 has no places behind the point here: this rounds to nearest, even in a tie
        ratio = (ratio + 12582912.0) - 12582912.0
    tl.store(out + place, ratio.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rows_program(
    given,  # (rows, width): tokens, or sums of eight-bit products
    row_scales,
    scales,
    bias,
    out,  # (rows, width), written
    out_scales,  # (rows,), written with eight-bit rows
    rows,
    width,
    IS_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GELU: tl.constexpr,
    IS_EIGHT_BIT: tl.constexpr,  # what is written
    LARGEST: tl.constexpr,
    IS_WHOLE_NUMBER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Scale sums, apply GELU in its tanh form, write eight-bit rows; each where it is asked for."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    is_row, is_column = row < rows, column < width
    inside = is_row[:, None] & is_column[None, :]
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(given + place, mask=inside, other=0.0).to(tl.float32)
    if IS_SUMS:
        value = unscaled(value, row_scales, scales, bias, row, column, is_row, is_column, HAS_BIAS)
    if HAS_GELU:
        # 0.5 * (1 + tanh(z)) is the logistic function of 2 * z
        inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(inner)
    if IS_EIGHT_BIT:
        store_rounded(value, out, out_scales, place, row, inside, is_row, LARGEST, IS_WHOLE_NUMBER)
    else:
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sum_norm_rows_program(
    hidden,  # (B, rows, width)
    update,  # (B, rows, width): tokens, or sums of eight-bit products
    row_scales,  # of the sums, (B * rows,)
    scales,  # (width,)
    bias,  # (width,)
    gate,  # (B or 1, width)
    shift,  # (B or 1, width)
    factor,  # (B or 1, width)
    total,  # (B, rows, width), written
    normed,  # (B, rows, width), written
    normed_scales,  # (B * rows,), written
    rows,
    width,
    gate_stride,  # 0 where one row serves all videos
    shift_stride,
    factor_stride,
    eps,
    HAS_UPDATE: tl.constexpr,
    IS_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_WHOLE_NUMBER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write total = hidden + gate * update, and LayerNorm(total) * factor + shift in eight bits."""
    tiles = tl.cdiv(rows, ROWS)
    video = (tl.program_id(0) // tiles).to(tl.int64)
    inner_row = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    is_row, is_column = inner_row < rows, column < width
    inside = is_row[:, None] & is_column[None, :]
    row = video * rows + inner_row
    place = row[:, None] * width + column[None, :]
    value = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE:
        added = tl.load(update + place, mask=inside, other=0.0).to(tl.float32)
        if IS_SUMS:
            added = unscaled(
                added, row_scales, scales, bias, row, column, is_row, is_column, HAS_BIAS
            )
        if HAS_GATE:
            gates = tl.load(gate + video * gate_stride + column, mask=is_column, other=0.0)
            added = added * gates.to(tl.float32)[None, :]
        value = value + added
        tl.store(total + place, value.to(total.dtype.element_ty), mask=inside)
    if HAS_NORM:
        mean = tl.sum(value, axis=1) / width
        centred = tl.where(inside, value - mean[:, None], 0.0)
        variance = tl.sum(centred * centred, axis=1) / width
        scale = 1.0 / tl.sqrt(variance + eps)
        factors = tl.load(factor + video * factor_stride + column, mask=is_column, other=0.0)
        shifts = tl.load(shift + video * shift_stride + column, mask=is_column, other=0.0)
        result = centred * scale[:, None] * factors.to(tl.float32)[None, :]
        result = result + shifts.to(tl.float32)[None, :]
        store_rounded(
            result, normed, normed_scales, place, row, inside, is_row, LARGEST, IS_WHOLE_NUMBER
        )


@triton.jit
def linear_program(
    tokens,  # (rows, width) in eight bits
    row_scales,  # (rows,)
    weight,  # (columns, width) in eight bits
    scales,  # (columns,)
    bias,  # (columns,)
    out,  # (rows, columns), written
    rows,
    columns,
    width,
    IS_WHOLE: tl.constexpr,  # width is a multiple of DEPTH
    IS_INTEGER: tl.constexpr,  # sums are of 32-bit integers
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write out = (tokens * row_scales) @ (weight * scales).T + bias."""
    # programs that run together share rows and columns: GROUP tiles of rows, column by column
    tiles = tl.cdiv(rows, ROWS)
    in_group = GROUP * tl.cdiv(columns, COLUMNS)
    first = tl.program_id(0) // in_group * GROUP
    count = tl.minimum(tiles - first, GROUP)
    inner = tl.program_id(0) % in_group
    row = (first + inner % count) * ROWS + tl.arange(0, ROWS)
    column = inner // count * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # rows and columns beyond the end read those from the start, and are not written
    a_place = tokens + (row % rows).to(tl.int64)[:, None] * width + depth[None, :]
    b_place = weight + (column % columns).to(tl.int64)[None, :] * width + depth[:, None]
    if IS_INTEGER:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    else:
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        if IS_WHOLE:
            a = tl.load(a_place + start)
            b = tl.load(b_place + start)
        else:
            left = depth < width - start
            a = tl.load(a_place + start, mask=left[None, :], other=0.0)
            b = tl.load(b_place + start, mask=left[:, None], other=0.0)
        if IS_INTEGER:
            total = tl.dot(a, b, total, out_dtype=tl.int32)
        else:
            # matrix units of Hopper keep 14 bits of a sum of fp8 products, so sums of DEPTH of them
            # are added outside; with a limit that is not 0 the compiler leaves that as it is
            total += tl.dot(a, b, input_precision="ieee", max_num_imprecise_acc=DEPTH)
    is_row, is_column = row < rows, column < columns
    value = unscaled(
        total.to(tl.float32), row_scales, scales, bias, row, column, is_row, is_column, HAS_BIAS
    )
    place = out + row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
