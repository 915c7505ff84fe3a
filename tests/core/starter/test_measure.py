"""The measuring function must be right on clips whose content is known."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest
import torch

from latte_core.starter.drawing import COLORS, DIRECTIONS, SHAPES, draw_clips, make_clip_spec
from latte_core.starter.measure import ALIKE, VISIBLE, Measurement, measure_clip, measure_objects
from latte_core.starter.scene_parts import BACKGROUNDS, SIZES, ClipSpec
from latte_core.starter.scenes import Mixture


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


def named(seen: Measurement) -> tuple[str | None, ...]:
    return seen.color, seen.shape, seen.direction, seen.size_name, seen.background


def wanted(spec: ClipSpec) -> set[tuple[str | None, ...]]:
    return {
        (one.color, one.shape, one.direction, one.size_name, spec.background)
        for one in spec.objects
    }


def frames_of(spec: ClipSpec) -> torch.Tensor:
    return draw_clips([spec])[0].permute(0, 2, 3, 1)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_backgrounds_are_measured_as_drawn(background: str, size: str) -> None:
    for seed in range(20):
        spec = make_clip_spec(random.Random(seed), background=background, size=size)
        found = measure_clip(frames_of(spec))
        assert {named(found)} == wanted(spec)
        assert found.size == pytest.approx(spec.size, abs=0.4)
        assert found.background_flicker == 0


@pytest.mark.parametrize("seed", range(10))
def test_every_two_drawn_objects_are_measured_as_drawn(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(15):
        spec = make_clip_spec(rng, mixture=Mixture(pairs=1.0, extras=0.5))
        found = measure_objects(frames_of(spec))
        assert len(found) == 2
        assert {named(one) for one in found} == wanted(spec)


def test_a_single_object_is_one_object() -> None:
    for seed in range(40):
        spec = make_clip_spec(random.Random(seed), mixture=Mixture(sized=0.5, backgrounds=0.5))
        found = measure_objects(frames_of(spec))
        assert [named(one) for one in found] == [named(measure_clip(frames_of(spec)))]


def test_no_object_is_none() -> None:
    assert measure_objects(torch.full((16, 64, 64, 3), 0.07)) == []


def test_measuring_two_objects_survives_noise_and_blur() -> None:
    generator = torch.Generator().manual_seed(0)
    right = 0
    for seed in range(60):
        spec = make_clip_spec(random.Random(seed), num_objects=2)
        clip = draw_clips([spec])[0]
        clip = torch.nn.functional.avg_pool2d(clip, 3, 1, 1, count_include_pad=False)
        clip = clip + 0.03 * torch.randn(clip.shape, generator=generator)
        found = measure_objects(clip.clamp(0, 1).permute(0, 2, 3, 1))
        right += {named(one)[:3] for one in found} == {one[:3] for one in wanted(spec)}
    assert right == 60


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_color_is_visible_on_every_background(background: str) -> None:
    """Far enough that the outermost tenth of an edge is all that is taken for background."""
    ground = torch.tensor(BACKGROUNDS[background])
    for rgb in COLORS.values():
        assert float((torch.tensor(rgb) - ground).norm()) > 2 * VISIBLE


def test_backgrounds_and_colors_are_told_apart() -> None:
    grounds = [torch.tensor(rgb) for rgb in BACKGROUNDS.values()]
    assert min(float((a - b).norm()) for a, b in combinations(grounds, 2)) > 0.25
    for ground, (name, rgb) in product(grounds, COLORS.items()):
        for cover in torch.linspace(0.1, 0.9, 81):
            mixed = ground + cover * (torch.tensor(rgb) - ground)
            if float((mixed - ground).norm()) <= VISIBLE:
                continue
            alike = [
                k for k, v in COLORS.items() if float((mixed - torch.tensor(v)).norm()) < ALIKE
            ]
            assert set(alike) <= {name}
