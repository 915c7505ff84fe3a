"""Which frames a decoder gets together: by size alone, counted, and fewer where memory is short."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.vae_cases import BOTH, SAME, CountedDecoder, make_vae, random_latents

from latte_core.vae import frames as vae_frames
from latte_core.vae.frames import VideoVAE
from latte_core.vae.pieces import (
    MAX_NUMBERS,
    ClipSize,
    Decoder,
    Plans,
    plan_by_size,
)
from latte_core.vae.tiling import DecodePlan, frame_chunks, smaller_plans

WIDTHS = (128, 256, 512, 512)  # of Latte-1's VAEs
PER_CELL = 256 * 64  # numbers of the largest tensor
TEMPORAL = Decoder.of(WIDTHS, is_temporal=True)
IMAGE = Decoder.of(WIDTHS, is_temporal=False)


def load_script() -> Any:
    """Import the benchmark by file location."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "decoding.py"
    spec = importlib.util.spec_from_file_location("latte_decoding_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()
RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "decoding.json"
record: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))


def clip_of(num_frames: int, height: int = 64, width: int | None = None) -> ClipSize:
    return ClipSize(num_frames=num_frames, height=height, width=height if width is None else width)


def most_read(plan: DecodePlan, num_frames: int) -> int:
    chunks = frame_chunks(num_frames, plan.chunk, plan.context)
    return max(chunk.read[1] - chunk.read[0] for chunk in chunks)


@pytest.mark.parametrize("num_frames", [1, 2, 15, 16])
def test_up_to_sixteen_frames_stay_whole(num_frames: int) -> None:
    assert plan_by_size(clip_of(num_frames), TEMPORAL) == DecodePlan(chunk=num_frames)


@pytest.mark.parametrize("side", [8, 32, 64])
@pytest.mark.parametrize("num_frames", [17, 28, 64, 4096])
def test_longer_clips_come_in_pieces_of_fourteen_between_four_frames(
    num_frames: int, side: int
) -> None:
    plan = plan_by_size(clip_of(num_frames, side), TEMPORAL)

    assert plan == DecodePlan(chunk=14, context=4)


@pytest.mark.parametrize("chunk", [1, 14, 20, 24])
def test_a_chunk_that_is_asked_for_has_no_surroundings(chunk: int) -> None:
    for decoder in (TEMPORAL, IMAGE):
        assert plan_by_size(clip_of(24), decoder, chunk=chunk) == DecodePlan(chunk=chunk)


def test_frames_of_an_image_decoder_come_four_at_a_time_by_size() -> None:
    counts = [plan_by_size(clip_of(16, side), IMAGE).chunk for side in (128, 64, 32, 16)]

    assert counts == [1, 4, 16, 16]


@pytest.mark.parametrize("decoder", [TEMPORAL, IMAGE], ids=["temporal", "image"])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("width", [64, 72, 96, 128, 200, 400, 1024])
@pytest.mark.parametrize("num_frames", [1, 16, 64])
def test_no_size_gives_a_tensor_that_kernels_cannot_count(
    num_frames: int, width: int, chunk: int | None, decoder: Decoder
) -> None:
    clip = clip_of(num_frames, 64, width) if width < 300 else clip_of(num_frames, width)

    plan = plan_by_size(clip, decoder, chunk=chunk)

    cells = most_read(plan, num_frames) * clip.area(plan.tile)
    assert PER_CELL * cells <= MAX_NUMBERS
    # As much as can be counted is taken: whole frames as long as one of them can.
    assert plan.tile is None or PER_CELL * clip.area(None) * 7 > MAX_NUMBERS


@pytest.mark.parametrize(
    ("side", "expected"),
    [(96, (10, 2, None)), (128, (3, 2, None)), (192, (10, 2, 96)), (256, (3, 2, 128))],
)
def test_large_frames_get_shorter_pieces_before_tiles(
    side: int, expected: tuple[int, int, int | None]
) -> None:
    plan = plan_by_size(clip_of(64, side), TEMPORAL)

    assert (plan.chunk, plan.context, plan.tile) == expected


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96)])
def test_sixty_four_frames_are_counted_on_the_real_decoder(height: int, width: int) -> None:
    module = script.make_decoder(temporal=True, dtype=torch.bfloat16)
    plan = plan_by_size(clip_of(64, height, width), TEMPORAL)

    sizes = script.trace(module, most_read(plan, 64), height, width)

    assert 2**30 < sizes.largest <= MAX_NUMBERS  # whole, it would be 2^32 and more


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "widths", [WIDTHS, (32, 32, 64, 64), (64, 32), (32, 128), (64, 64)], ids=str
)
@BOTH
def test_what_a_call_needs_is_what_is_traced(
    temporal: bool, widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    module = script.make_decoder(
        temporal=temporal, dtype=dtype, block_out_channels=widths, layers_per_block=1
    )

    sizes = script.trace(module, 3, 24, 40)

    decoder = Decoder.of(widths, is_temporal=temporal)
    # The traced call also holds what it returns, which has three channels.
    assert decoder.bytes_for(3 * 24 * 40, dtype.itemsize) == pytest.approx(sizes.peak, rel=0.02)
    assert decoder.largest * 3 * 24 * 40 == sizes.largest


@pytest.mark.parametrize("num_frames", [17, 40])
def test_pieces_are_decoded_with_their_surroundings_and_without_their_frames(
    num_frames: int, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents(batch=2, frames=num_frames, height=3, width=4)

    frames = vaes[True].decode(latents)

    for start in range(0, num_frames, 14):
        first, last = max(0, start - 4), min(num_frames, start + 18)
        part = vaes[True].decode(latents[:, :, first:last], chunk=last - first)
        kept = part[:, start - first : start - first + 14][:, : num_frames - start]
        assert (frames[:, start : start + 14] - kept).abs().max() <= SAME


def test_surroundings_bring_pieces_closer_to_the_whole(vaes: dict[bool, VideoVAE]) -> None:
    latents = random_latents(batch=1, frames=28, height=4, width=5)
    whole = vaes[True].decode(latents, chunk=28)

    pieces = (vaes[True].decode(latents) - whole).abs()
    chunks = (vaes[True].decode(latents, chunk=14) - whole).abs()

    # Group norms take their statistics over a piece, so that the two are never equal.
    assert 0 < pieces.max() <= chunks.max() / 2
    assert pieces.mean() <= chunks.mean() / 2


def test_long_videos_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_vae(True)
    counted = CountedDecoder(vae.module)
    monkeypatch.setattr(vae.module, "decode", counted)

    vae.decode(random_latents(batch=2, frames=30, height=2, width=3))

    assert [shape[0] for shape in counted.shapes] == [18, 20, 6] * 2


def test_more_frames_than_can_be_counted_are_cut_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = make_vae(True)
    counted = CountedDecoder(vae.module)
    monkeypatch.setattr(vae.module, "decode", counted)
    # 32 channels on 4 x 4 pixels in each of 6 x 8 cells: three frames can be counted
    monkeypatch.setattr("latte_core.vae.pieces.MAX_NUMBERS", 4 * 32 * 16 * 48 - 1)

    with caplog.at_level(logging.WARNING, logger="latte"):
        vae.decode(random_latents(batch=1, frames=5), chunk=5)

    assert [shape[0] for shape in counted.shapes] == [3, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "5 frames of this size are more than a decoder can count at once: decoding 3 at a time."
    ]


@BOTH
def test_short_memory_is_seen_before_it_runs_out(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = make_vae(temporal)
    latents = random_latents(batch=2, frames=16)
    counted = CountedDecoder(vae.module)
    monkeypatch.setattr(vae.module, "decode", counted)
    room = Decoder.of((32, 32, 64), is_temporal=temporal).bytes_for(8 * 48, 4)  # eight frames
    monkeypatch.setattr(vae_frames, "free_bytes", lambda device: room)

    with caplog.at_level(logging.WARNING, logger="latte"):
        vae.decode(latents, chunk=16)

    assert max(shape[0] for shape in counted.shapes) == 8
    assert len(counted.shapes) == (8 if temporal else 4)
    said = "Not enough memory: decoded 4 frames at a time."
    assert [record.getMessage() for record in caplog.records] == [
        said if temporal else said.replace("4", "8")
    ]


@BOTH
def test_memory_that_suffices_changes_no_bit(
    temporal: bool, monkeypatch: pytest.MonkeyPatch, vaes: dict[bool, VideoVAE]
) -> None:
    latents = random_latents(batch=1, frames=16)
    expected = vaes[temporal].decode(latents)
    room = Decoder.of((32, 32, 64), is_temporal=temporal).bytes_for(16 * 48, 4)

    monkeypatch.setattr(vae_frames, "free_bytes", lambda device: room)

    assert torch.equal(vaes[temporal].decode(latents), expected)


def test_the_smallest_plan_is_tried_where_none_fits() -> None:
    clip, first = clip_of(16), DecodePlan(chunk=16)
    smaller = list(smaller_plans(first, 16, 64, 64, is_temporal=True))
    tried: list[DecodePlan] = []
    plans = Plans(first, clip, TEMPORAL)
    assert plans.needed(2) == 2**33  # 8,192 MiB, as traced for 16 frames of 512 x 512

    plans.fit(2, None)
    assert plans.now == first and not plans.is_smaller
    plans.fit(2, 0)
    with pytest.raises(MemoryError):
        plans.run(lambda plan: fail(plan, tried), lambda: None)

    assert plans.is_smaller
    assert tried == [smaller[-1]] * 2


def test_each_plan_needs_less_than_the_one_before() -> None:
    plans = Plans(DecodePlan(chunk=14, context=4), clip_of(64), TEMPORAL)
    needed = [plans.needed(2)]

    for share in (0.9, 0.5, 0.3, 0.1, 0.01):
        plans.fit(2, share * needed[0])
        needed.append(plans.needed(2))
        assert needed[-1] <= share * needed[0]

    assert needed == sorted(needed, reverse=True)


@pytest.mark.parametrize(("name", "call"), list(record["traced"].items()))
def test_record_agrees_with_plans(name: str, call: dict[str, Any]) -> None:
    num_frames, width, height = (int(word) for word in name.split() if word.isdigit())
    clip = clip_of(num_frames, height // 8, width // 8)
    plan = plan_by_size(clip, TEMPORAL)

    assert (call["frames_kept"], call["surroundings"]) == (plan.chunk, plan.context)
    assert call["tile_pixels"] is plan.tile is None
    needed = Plans(plan, clip, TEMPORAL).needed(2)
    assert needed == pytest.approx(call["pieces"]["bytes"], rel=0.01)
    assert call["pieces"]["largest_tensor"] <= MAX_NUMBERS


def fail(plan: DecodePlan, tried: list[DecodePlan]) -> torch.Tensor:
    tried.append(plan)
    raise MemoryError
