"""The Triton programs. Importing this module needs Triton; `ops.py` does so on first use.

Each program computes in float32, whatever it reads, and rounds once when it writes. Programs count
on one axis of the grid, the only one without a limit of 65535.
"""

# Triton's language is typed for its own compiler only.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_norm_program(
    hidden,  # (B, rows, width)
    update,  # (B, rows, width)
    gate,  # (B or 1, width)
    shift,  # (B or 1, width)
    factor,  # (B or 1, width)
    total,  # (B, rows, width), written
    normed,  # (B, rows, width), written
    rows,
    width,
    gate_stride,  # 0 where one row serves all videos
    shift_stride,
    factor_stride,
    eps,
    HAS_UPDATE: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write total = hidden + gate * update and normed = LayerNorm(total) * factor + shift."""
    tiles = tl.cdiv(rows, ROWS)
    video = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    is_column = column < width
    inside = (row < rows)[:, None] & is_column[None, :]
    place = (video * rows + row)[:, None] * width + column[None, :]
    value = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE:
        added = tl.load(update + place, mask=inside, other=0.0).to(tl.float32)
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
        tl.store(normed + place, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def linear_gelu_program(
    tokens,  # (rows, width)
    weight,  # (columns, width)
    bias,  # (columns,)
    out,  # (rows, columns), written
    rows,
    columns,
    width,
    IS_WHOLE: tl.constexpr,  # width is a multiple of DEPTH
    IN_FLOAT32: tl.constexpr,  # multiply float32, whatever is read
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write out = GELU(tokens @ weight.T + bias), GELU in its tanh form."""
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
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        if IS_WHOLE:
            a = tl.load(a_place + start)
            b = tl.load(b_place + start)
        else:
            left = depth < width - start
            a = tl.load(a_place + start, mask=left[None, :], other=0.0)
            b = tl.load(b_place + start, mask=left[:, None], other=0.0)
        if IN_FLOAT32:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    total += tl.load(bias + column % columns).to(tl.float32)[None, :]
    # 0.5 * (1 + tanh(z)) is the logistic function of 2 * z
    inner_value = 1.5957691216057308 * (total + 0.044715 * total * total * total)
    result = total * tl.sigmoid(inner_value)
    place = out + row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def across_frames_program(
    q,  # (B, F*S, N, width), each with strides of its own; channels side by side
    k,
    v,
    out,  # (B, F*S, N*width), written
    q_video,
    q_row,
    q_head,
    k_video,
    k_row,
    k_head,
    v_video,
    v_row,
    v_head,
    places,  # S
    heads,  # N
    scale,
    FRAMES: tl.constexpr,  # F
    FRAMES_TILE: tl.constexpr,  # the power of two from F on
    PLACES_TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_TILE: tl.constexpr,
    IN_FLOAT32: tl.constexpr,  # multiply float32, whatever is read
):
    """Attend across the frames of PLACES_TILE places in one head.

    All their rows meet in one product, from which the scores between two places are left out:
    a product for each place would be too small for matrix units.
    """
    groups = tl.cdiv(places, PLACES_TILE)
    head = (tl.program_id(0) % heads).to(tl.int64)
    group = tl.program_id(0) // heads % groups
    video = (tl.program_id(0) // heads // groups).to(tl.int64)
    index = tl.arange(0, PLACES_TILE * FRAMES_TILE)
    frame = index % FRAMES_TILE
    place = group * PLACES_TILE + index // FRAMES_TILE
    channel = tl.arange(0, WIDTH_TILE)
    is_row = (frame < FRAMES) & (place < places)
    inside = is_row[:, None] & (channel < WIDTH)[None, :]
    row = (frame.to(tl.int64) * places + place)[:, None]
    at = channel[None, :]
    queries = tl.load(q + video * q_video + head * q_head + row * q_row + at, inside, 0.0)
    keys = tl.load(k + video * k_video + head * k_head + row * k_row + at, inside, 0.0)
    values = tl.load(v + video * v_video + head * v_head + row * v_row + at, inside, 0.0)
    if IN_FLOAT32:
        queries, keys = queries.to(tl.float32), keys.to(tl.float32)
        values = values.to(tl.float32)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
    together = (place[:, None] == place[None, :]) & (frame < FRAMES)[None, :]
    scores = tl.where(together, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    sums = tl.sum(weights, axis=1)
    result = tl.dot(weights.to(values.dtype), values, input_precision="ieee") / sums[:, None]
    start = out + (video * FRAMES * places * heads + head) * WIDTH
    tl.store(start + row * (heads * WIDTH) + at, result.to(out.dtype.element_ty), inside)
