"""Cut latents into frame chunks and overlapping spatial tiles, and blend what was decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

Span = tuple[int, int]
"""First index and the one after the last."""

TILE_OVERLAP = 0.25  # of a tile's edge, at least
SMALLEST_TILE = 8  # cells
SMALLEST_CLIP = 4  # frames a temporal decoder keeps together as long as tiles can still help


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameChunk:
    """Frames that are decoded together, and those of them that are kept.

    Args:
        read: frames given to the decoder.
        keep: frames kept, inside `read`; the others are only its surroundings.
    """

    read: Span
    keep: Span


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePlan:
    """How much is decoded at a time.

    Args:
        chunk: frames.
        tile: edge of a tile in latent cells; None for whole frames.
        context: frames read on each side of a chunk and thrown away.
    """

    chunk: int
    tile: int | None = None
    context: int = 0


def frame_chunks(num_frames: int, chunk: int, context: int = 0) -> list[FrameChunk]:
    """Cut frames into chunks of `chunk`, the last one shorter, as the reference does.

    Args:
        num_frames: of one video, >= 1.
        chunk: frames kept at a time, >= 1.
        context: extra frames read before and after where there are any.
    """
    return [
        FrameChunk(
            read=(max(0, start - context), min(num_frames, start + chunk + context)),
            keep=(start, min(num_frames, start + chunk)),
        )
        for start in range(0, num_frames, chunk)
    ]


def tile_spans(size: int, tile: int) -> list[Span]:
    """Cover `size` cells with spans of `tile` cells, evenly spread, overlapping by a quarter.

    Args:
        size: cells along one axis.
        tile: cells of a span; one span covers everything if it is as large as `size`.
    """
    if tile >= size:
        return [(0, size)]
    overlap = max(1, round(tile * TILE_OVERLAP))
    count = 1 + -(-(size - tile) // (tile - overlap))
    starts = [round(index * (size - tile) / (count - 1)) for index in range(count)]
    return [(start, start + tile) for start in starts]


def span_weights(spans: Sequence[Span], scale: int) -> list[Tensor]:
    """Weigh each pixel of each span so that all spans together give one everywhere.

    Where two spans overlap, the weight moves from one to the other in a straight line over the
    middle half of the overlap. The outer quarters, where a tile misses its surroundings most, count
    nothing.

    Args:
        spans: of one axis, in cells, in order.
        scale: pixels per cell.

    Returns:
        one (span length * scale,) float32 for each span, every value in [0, 1].
    """
    size = spans[-1][1] * scale
    centers = torch.arange(size, dtype=torch.float64) + 0.5
    steps = [torch.ones(size, dtype=torch.float64)]
    for (_, stop), (start, _) in pairwise(spans):
        margin = (stop - start) * scale / 4
        first, last = start * scale + margin, stop * scale - margin
        steps.append(((centers - first) / (last - first)).clamp(0, 1))
    steps.append(torch.zeros(size, dtype=torch.float64))
    return [
        (step - next_step)[start * scale : stop * scale].float()
        for (start, stop), (step, next_step) in zip(spans, pairwise(steps), strict=True)
    ]


def decode_in_tiles(
    decode: Callable[[Tensor], Tensor], latents: Tensor, tile: int | None, scale: int
) -> Tensor:
    """Decode frames tile by tile and blend.

    Args:
        decode: (N, 4, h, w) -> (N, 3, h * scale, w * scale) float32 on the CPU.
        latents: (N, 4, h, w).
        tile: edge of a tile in cells; None, or an edge as large as the frame, decodes it whole.
        scale: pixels per cell.

    Returns:
        (N, 3, H, W) float32 on the CPU.
    """
    count, _, height, width = latents.shape
    if tile is None or (tile >= height and tile >= width):
        return decode(latents)
    rows, columns = tile_spans(height, tile), tile_spans(width, tile)
    frames = torch.zeros(count, 3, height * scale, width * scale)
    for (row, down), (column, across) in product(
        zip(rows, span_weights(rows, scale), strict=True),
        zip(columns, span_weights(columns, scale), strict=True),
    ):
        piece = decode(latents[:, :, row[0] : row[1], column[0] : column[1]])
        target = frames[
            :, :, row[0] * scale : row[1] * scale, column[0] * scale : column[1] * scale
        ]
        target += piece * (down[:, None] * across[None, :])
    return frames


def decode_in_pieces(
    decode: Callable[[Tensor], Tensor], latents: Tensor, plan: DecodePlan, scale: int
) -> Tensor:
    """Decode one video piece by piece, and drop the frames that were only surroundings.

    Args:
        decode: (N, 4, h, w) -> (N, 3, h * scale, w * scale) float32 on the CPU.
        latents: (F, 4, h, w).
        plan: frames and tiles at a time.
        scale: pixels per cell.

    Returns:
        (F, H, W, 3) float32 on the CPU, as `decode` made them.
    """
    count, _, height, width = latents.shape
    frames = torch.empty(count, height * scale, width * scale, 3)
    for chunk in frame_chunks(count, plan.chunk, plan.context):
        (first, last), (start, stop) = chunk.read, chunk.keep
        pixels = decode_in_tiles(decode, latents[first:last], plan.tile, scale)
        frames[start:stop] = pixels[start - first : stop - first].movedim(1, -1)
    return frames


def count_pieces(plan: DecodePlan, num_frames: int, height: int, width: int) -> int:
    """Return how many decoder calls `plan` makes for one video of h x w cells."""
    tile = plan.tile if plan.tile is not None else max(height, width)
    tiles = len(tile_spans(height, tile)) * len(tile_spans(width, tile))
    return len(frame_chunks(num_frames, plan.chunk)) * tiles


def smaller_plans(
    plan: DecodePlan, num_frames: int, height: int, width: int, *, is_temporal: bool
) -> Iterator[DecodePlan]:
    """Yield plans that need less and less memory: fewer frames at a time, then tiles.

    A temporal decoder gets two frames of surroundings on each side of a chunk and keeps four frames
    together until the tiles are smallest.

    Args:
        plan: the one that did not fit.
        num_frames: of one video.
        height: cells.
        width: cells.
        is_temporal: the decoder looks along time.
    """
    chunk = min(plan.chunk, num_frames)
    context = 2 if is_temporal else 0
    smallest = min(chunk, SMALLEST_CLIP) if is_temporal else 1
    while chunk > smallest:
        chunk = max(smallest, -(-chunk // 2))
        yield DecodePlan(chunk=chunk, tile=plan.tile, context=context)
    tile = plan.tile if plan.tile is not None else max(height, width)
    while tile > SMALLEST_TILE:
        tile = max(SMALLEST_TILE, -(-tile // 2))
        yield DecodePlan(chunk=chunk, tile=tile, context=context)
    if chunk > 1:
        yield DecodePlan(chunk=1, tile=tile)
