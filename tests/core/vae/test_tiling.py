"""Chunks, tiles and their weights: closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from latte_core.vae.tiling import (
    DecodePlan,
    FrameChunk,
    count_pieces,
    decode_in_tiles,
    frame_chunks,
    smaller_plans,
    span_weights,
    tile_spans,
)


def test_sixteen_frames_in_chunks_of_fourteen_leave_two() -> None:
    chunks = frame_chunks(16, 14)

    assert [chunk.keep for chunk in chunks] == [(0, 14), (14, 16)]
    assert [chunk.read for chunk in chunks] == [(0, 14), (14, 16)]


def test_context_is_read_on_both_sides_but_not_beyond_the_video() -> None:
    assert frame_chunks(7, 3, context=2) == [
        FrameChunk(read=(0, 5), keep=(0, 3)),
        FrameChunk(read=(1, 7), keep=(3, 6)),
        FrameChunk(read=(4, 7), keep=(6, 7)),
    ]


@pytest.mark.parametrize("context", [0, 1, 5])
@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("num_frames", [1, 2, 16, 17])
def test_chunks_keep_every_frame_once_in_order(num_frames: int, chunk: int, context: int) -> None:
    chunks = frame_chunks(num_frames, chunk, context)

    kept = [frame for part in chunks for frame in range(*part.keep)]
    assert kept == list(range(num_frames))
    assert all(c.read[0] <= c.keep[0] and c.keep[1] <= c.read[1] for c in chunks)


@pytest.mark.parametrize("tile", [4, 8, 9, 16, 31])
@pytest.mark.parametrize("size", [1, 8, 9, 17, 30, 31, 64, 65, 100])
def test_spans_cover_everything_and_overlap_by_a_quarter(size: int, tile: int) -> None:
    spans = tile_spans(size, tile)

    assert (spans[0][0], spans[-1][1]) == (0, size)
    assert all(stop - start == min(tile, size) for start, stop in spans)
    assert all(stop - start >= tile // 4 - 1 for (_, stop), (start, _) in pairwise(spans))
    assert all(start < next_start for (start, _), (next_start, _) in pairwise(spans))


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("tile", [4, 8, 9, 16, 31])
@pytest.mark.parametrize("size", [8, 9, 17, 31, 64, 65])
def test_span_weights_sum_to_one_everywhere(size: int, tile: int, scale: int) -> None:
    spans = tile_spans(size, tile)
    total = torch.zeros(size * scale)

    for (start, stop), weights in zip(spans, span_weights(spans, scale), strict=True):
        assert weights.min() >= 0
        total[start * scale : stop * scale] += weights

    assert (total - 1).abs().max() <= 1e-6


def test_the_outer_quarter_of_an_overlap_counts_nothing() -> None:
    first, second = span_weights([(0, 8), (4, 12)], scale=8)

    # The overlap is 32 pixels: 8 for nothing, 16 to move over, 8 for nothing.
    assert first[:40].eq(1).all()
    assert first[-8:].eq(0).all()
    assert second[:8].eq(0).all()
    assert second[24:].eq(1).all()


@pytest.mark.parametrize("tile", [4, 7, 8, 16])
def test_tiles_of_a_local_decoder_blend_to_the_whole_picture_exactly(tile: int) -> None:
    def enlarge(latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=8, mode="nearest")

    latents = torch.randn(3, 4, 13, 18, generator=torch.Generator().manual_seed(0))

    blended = decode_in_tiles(enlarge, latents, tile, 8)

    # rounding of the two products and their sum, on values below 4
    assert (blended - enlarge(latents)).abs().max() <= 1e-6


def test_tiles_equal_the_whole_where_surroundings_reach_less_than_the_dead_edge() -> None:
    # A 5 x 5 convolution at pixel level sees 2 pixels around it. Tiles of 16 cells overlap by 4
    # cells, 32 pixels, of which 8 on each side count nothing: the zero padding never shows.
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 3, 5, padding=2).requires_grad_(False)

    def decode(latents: Tensor) -> Tensor:
        return convolution(nn.functional.interpolate(latents[:, :3], scale_factor=8))

    latents = torch.randn(2, 4, 20, 40)

    assert (decode_in_tiles(decode, latents, 16, 8) - decode(latents)).abs().max() <= 1e-5


def test_a_tile_as_large_as_the_frame_decodes_it_whole() -> None:
    calls: list[tuple[int, ...]] = []

    def decode(latents: Tensor) -> Tensor:
        calls.append(tuple(latents.shape))
        return torch.zeros(2, 3, 64, 96)

    decode_in_tiles(decode, torch.zeros(2, 4, 8, 12), 12, 8)
    decode_in_tiles(decode, torch.zeros(2, 4, 8, 12), None, 8)

    assert calls == [(2, 4, 8, 12)] * 2


def test_pieces_are_counted_as_they_are_decoded() -> None:
    latents = torch.zeros(5, 4, 16, 24)
    plan = DecodePlan(chunk=2, tile=8)
    calls = 0

    def decode(some: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(len(some), 3, some.shape[2] * 8, some.shape[3] * 8)

    for chunk in frame_chunks(5, 2):
        decode_in_tiles(decode, latents[slice(*chunk.keep)], 8, 8)

    assert calls == count_pieces(plan, 5, 16, 24)


def test_an_image_decoder_gets_one_frame_before_tiles() -> None:
    plans = list(smaller_plans(DecodePlan(chunk=16), 16, 64, 48, is_temporal=False))

    assert [plan.chunk for plan in plans[:4]] == [8, 4, 2, 1]
    assert [plan.tile for plan in plans] == [None] * 4 + [32, 16, 8]


def test_a_temporal_decoder_keeps_four_frames_and_context_until_tiles_are_smallest() -> None:
    plans = list(smaller_plans(DecodePlan(chunk=16), 16, 64, 64, is_temporal=True))

    assert [plan.chunk for plan in plans] == [8, 4, 4, 4, 4, 1]
    assert [plan.tile for plan in plans] == [None, None, 32, 16, 8, 8]
    assert [plan.context for plan in plans] == [2, 2, 2, 2, 2, 0]


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 16, 17])
def test_each_plan_is_smaller_than_the_one_before(num_frames: int, temporal: bool) -> None:
    first = DecodePlan(chunk=num_frames)
    plans = [first, *smaller_plans(first, num_frames, 30, 40, is_temporal=temporal)]

    sizes = [plan.chunk * min(plan.tile or 40, 40) ** 2 for plan in plans]
    assert all(before > after for before, after in pairwise(sizes))
