"""Mirroring, resizing and cropping, against closed forms and the reference's calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from latte_core.data.transforms import TRANSFORMS, Transform
from latte_core.errors import InvalidInputError


def noise(height: int, width: int, num_frames: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    shape = (num_frames, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def planes(frames: Tensor) -> Tensor:
    return frames.movedim(-1, 1).float() / 255


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_frames_of_the_right_size_keep_every_byte(kind: str) -> None:
    frames = noise(32, 48)
    made = Transform(kind=kind, height=32, width=48)(frames)
    assert made.dtype == torch.float32
    assert torch.equal(made, frames.float() / 255)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_flipped_frames_are_mirrored_before_anything_else(kind: str) -> None:
    size = (32, 48) if kind == "none" else (37, 91)
    frames, transform = noise(*size), Transform(kind=kind, height=32, width=48)
    mirrored = frames.flip(2)
    assert torch.equal(transform(frames, flipped=True), transform(mirrored))
    assert not torch.equal(transform(frames), transform(mirrored))


@pytest.mark.parametrize(("height", "width"), [(48, 80), (81, 37), (240, 320), (33, 64), (16, 17)])
def test_resize_first_is_the_references_resize_and_centre_crop(height: int, width: int) -> None:
    frames = noise(height, width)
    factor = 32 / min(height, width)
    resized = functional.interpolate(planes(frames), scale_factor=factor, mode="bilinear")
    top = int(round((resized.shape[-2] - 32) / 2.0))
    left = int(round((resized.shape[-1] - 32) / 2.0))
    expected = resized[..., top : top + 32, left : left + 32].movedim(1, -1)
    assert torch.equal(Transform(kind="resize_first", height=32, width=32)(frames), expected)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (81, 37), (64, 64), (33, 64)])
def test_crop_first_is_the_references_crop_and_resize(height: int, width: int) -> None:
    frames = noise(height, width)
    side = min(height, width)
    top, left = int(round((height - side) / 2.0)), int(round((width - side) / 2.0))
    cut = planes(frames)[..., top : top + side, left : left + side]
    expected = functional.interpolate(cut, size=(32, 32), mode="bilinear").movedim(1, -1)
    made = Transform(kind="crop_first", height=32, width=32)(frames)
    assert torch.allclose(made, expected, atol=1e-6)


def test_smooth_averages_what_the_reference_leaves_out() -> None:
    stripes = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    stripes[:, :, ::4] = 255  # one column of four
    smooth = Transform(kind="smooth", height=16, width=16)(stripes)
    grainy = Transform(kind="resize_first", height=16, width=16)(stripes)
    assert smooth[:, :, 1:-1].sub(0.25).abs().max() < 0.02
    assert grainy[:, :, 1:-1].sub(0.25).abs().min() > 0.2


@pytest.mark.parametrize("kind", ["smooth", "resize_first", "crop_first"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (300, 7), (49, 49), (1080, 607)])
@pytest.mark.parametrize(("high", "wide"), [(16, 16), (32, 48), (64, 16)])
def test_any_size_becomes_the_size_asked_for(
    kind: str, height: int, width: int, high: int, wide: int
) -> None:
    made = Transform(kind=kind, height=high, width=wide)(noise(height, width, 1))
    assert made.shape == (1, high, wide, 3)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1


@pytest.mark.parametrize("side", range(17, 400, 13))
def test_rounding_never_leaves_a_side_too_short(side: int) -> None:
    made = Transform(kind="resize_first", height=256, width=256)(noise(side, side + 5, 1))
    assert made.shape == (1, 256, 256, 3)


def test_centre_is_what_is_kept() -> None:
    frames = torch.zeros(1, 32, 96, 3, dtype=torch.uint8)
    frames[:, :, 32:64] = 255
    for kind in ("smooth", "resize_first", "crop_first"):
        assert bool((Transform(kind=kind, height=32, width=32)(frames) == 1).all())


def test_none_refuses_another_size() -> None:
    with pytest.raises(InvalidInputError, match=r"48 x 32 pixels.*takes 32 x 32"):
        Transform(kind="none", height=32, width=32)(noise(32, 48))


@pytest.mark.parametrize("wrong", [{"kind": "stretch"}, {"height": 40}, {"width": 0}])
def test_transform_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"kind": "smooth", "height": 32, "width": 32, **wrong}
    with pytest.raises(InvalidInputError):
        Transform(**settings)  # type: ignore[arg-type]
