"""The measuring function must be right on clips whose content is known."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch

from latte_core.training.drawing import (
    COLORS,
    DIRECTIONS,
    SHAPES,
    draw_clips,
    make_clip_spec,
)
from latte_core.training.measure import measure_clip


def drawn(color: str, shape: str, direction: str, seed: int) -> torch.Tensor:
    spec = make_clip_spec(random.Random(seed), color=color, shape=shape, direction=direction)
    return draw_clips([spec])[0].permute(0, 2, 3, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_drawn_clip_is_measured_as_what_was_drawn(shape: str, direction: str) -> None:
    for seed, color in enumerate(COLORS):
        found = measure_clip(drawn(color, shape, direction, seed))
        assert (found.color, found.shape, found.direction) == (color, shape, direction)
        assert found.background_flicker == 0


@pytest.mark.parametrize("color", COLORS)
def test_measuring_survives_noise_and_blur(color: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed, (shape, direction) in enumerate(product(SHAPES, DIRECTIONS)):
        clip = drawn(color, shape, direction, seed).permute(0, 3, 1, 2)
        clip = torch.nn.functional.avg_pool2d(clip, 3, 1, 1, count_include_pad=False)
        clip = clip + 0.03 * torch.randn(clip.shape, generator=generator)
        found = measure_clip(clip.clamp(0, 1).permute(0, 2, 3, 1))
        assert (found.color, found.shape, found.direction) == (color, shape, direction)


def test_an_empty_clip_is_nothing_rather_than_a_guess() -> None:
    found = measure_clip(torch.full((16, 64, 64, 3), 0.07))
    assert (found.color, found.shape, found.direction) == (None, None, None)


def test_flicker_of_the_background_is_measured_in_steps_of_one_255th() -> None:
    clip = drawn("red", "circle", "left", 0)
    clip[::2] += 2 / 255
    assert measure_clip(clip).background_flicker == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_travel_is_measured_in_pixels(direction: str) -> None:
    spec = make_clip_spec(random.Random(3), direction=direction)
    found = measure_clip(draw_clips([spec])[0].permute(0, 2, 3, 1))
    step_x, step_y = DIRECTIONS[direction]
    assert found.travel == pytest.approx((step_x * spec.travel, step_y * spec.travel), abs=0.5)
