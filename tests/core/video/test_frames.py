"""Floats to bytes."""

from __future__ import annotations

import pytest
import torch

from latte_core.errors import InvalidInputError, NonFiniteError
from latte_core.video import bytes_from_frames, enlarge, frames_from_bytes


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
