"""Floats to bytes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError, NonFiniteError
from latte_core.video import (
    FrameStream,
    bytes_from_frames,
    enlarge,
    enlarge_one_by_one,
    frames_from_bytes,
    write_video,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0), (0.5 / 255, 1), (0.49 / 255, 0), (1.0, 255), (-1.0, 0), (2.0, 255), (0.5, 128)],
)
def test_r55_bytes_are_rounded_half_up_and_clamped(value: float, expected: int) -> None:
    assert bool((bytes_from_frames(torch.full((2, 3, 5, 3), value)) == expected).all())


def test_r55_every_byte_survives_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(3).view(2, 4, 32, 3)
    assert torch.equal(bytes_from_frames(frames_from_bytes(values)), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted(dtype: torch.dtype) -> None:
    assert int(bytes_from_frames(torch.ones((1, 2, 2, 3), dtype=dtype)).min()) == 255


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_r55_frame_that_is_not_finite_is_named(value: float) -> None:
    frames = torch.zeros(3, 4, 4, 3)
    frames[1, 2, 3, 0] = value
    with pytest.raises(NonFiniteError, match="Frame 2 of 3"):
        bytes_from_frames(frames)


@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 4, 4, 4), (0, 4, 4, 3), (2, 0, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="frames, height, width, 3"):
        bytes_from_frames(torch.zeros(shape))


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        bytes_from_frames(torch.zeros((1, 2, 2, 3), dtype=torch.int64))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_enlarging_keeps_plain_colours_and_the_range(factor: int) -> None:
    frames = torch.tensor([0.0, 1.0, 0.3]).expand(2, 4, 6, 3)
    larger = enlarge(frames, factor)
    assert larger.shape == (2, 4 * factor, 6 * factor, 3)
    torch.testing.assert_close(larger, torch.tensor([0.0, 1.0, 0.3]).expand_as(larger))


def test_enlarged_edges_stay_within_the_range() -> None:
    checks = (torch.arange(36).view(1, 6, 6, 1).expand(1, 6, 6, 3) % 2).float()
    larger = enlarge(checks, 4)
    assert (float(larger.min()), float(larger.max())) == (0.0, 1.0)


@pytest.mark.parametrize("factor", [0, 3, 5, True])
def test_other_factors_are_refused(factor: int) -> None:
    with pytest.raises(InvalidInputError, match="upscale"):
        enlarge(torch.zeros(1, 4, 4, 3), factor)


def random_frames(num_frames: int = 3, height: int = 10, width: int = 14) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.rand(num_frames, height, width, 3, generator=generator)


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_has_the_bits_of_interleaved_colours(factor: int) -> None:
    frames = random_frames()
    planes = frames.permute(0, 3, 1, 2)
    larger = torch.nn.functional.interpolate(planes, scale_factor=factor, mode="bicubic")

    assert torch.equal(enlarge(frames, factor), larger.permute(0, 2, 3, 1).clamp(0, 1))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_frames_enlarged_one_by_one_have_the_bits_of_all_at_once(factor: int) -> None:
    frames = random_frames()

    stream = enlarge_one_by_one(frames, factor)

    assert (stream.num_frames, stream.height, stream.width) == (3, 10 * factor, 14 * factor)
    assert torch.equal(torch.stack(list(stream.checked())), enlarge(frames, factor))


def test_a_factor_is_refused_before_the_first_frame_is_asked_for() -> None:
    with pytest.raises(InvalidInputError, match="upscale"):
        enlarge_one_by_one(random_frames(), 3)


def test_an_enlarged_video_is_written_frame_by_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, alive = random_frames(6), list[weakref.ref[Tensor]]()
    most: list[int] = []
    real = torch.nn.functional.interpolate

    def watched(*given: Any, **options: Any) -> Tensor:
        larger = real(*given, **options)
        alive.append(weakref.ref(larger))
        most.append(sum(one() is not None for one in alive))
        assert larger.shape == (1, 3, 40, 56)
        return larger

    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    written = write_video(tmp_path / "a.mp4", enlarge_one_by_one(frames, 4)).read_bytes()
    monkeypatch.undo()

    assert len(most) == 6 and max(most) == 1
    assert written == write_video(tmp_path / "b.mp4", enlarge(frames, 4)).read_bytes()


def endless() -> Iterator[Tensor]:
    while True:
        yield torch.zeros(4, 6, 3)


def some(count: int, width: int = 6) -> Iterator[Tensor]:
    return (torch.zeros(4, width, 3) for _ in range(count))


@pytest.mark.parametrize("frames", [endless(), some(1), some(0), some(2, 8)])
def test_a_stream_that_is_not_what_was_said_leaves_no_file(
    tmp_path: Path, frames: Iterator[Tensor]
) -> None:
    stream = FrameStream(num_frames=2, height=4, width=6, frames=frames)
    with pytest.raises(InvalidInputError, match="2 frames of 4 x 6"):
        write_video(tmp_path / "clip.mp4", stream)
    assert list(tmp_path.iterdir()) == []


def test_r32_a_stream_with_nan_leaves_no_file_and_names_the_frame(tmp_path: Path) -> None:
    frames = random_frames(4)
    frames[2, 3, 4, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="Frame 3 of 4"):
        write_video(tmp_path / "clip.mp4", enlarge_one_by_one(frames, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_refused_before_its_first_frame_is_made(tmp_path: Path) -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("a frame was made")
        yield

    stream = FrameStream(num_frames=2, height=5, width=6, frames=never())
    with pytest.raises(InvalidInputError, match="4 and 6"):
        write_video(tmp_path / "clip.mp4", stream)
