"""Clips must be what the starter's data sheet says."""

from __future__ import annotations

import math
import random

import pytest
import torch

from latte_core.starter.drawing import (
    COLORS,
    PAINTS,
    draw_clips,
    draw_frames,
    make_clip_spec,
    signed_distance,
)
from latte_core.starter.scene_parts import BACKGROUNDS, SHAPES, UNNAMED_SHAPES
from latte_core.starter.scenes import Mixture

RICH = Mixture(sized=0.2, backgrounds=0.2, pairs=0.3, apart=0.3, extras=0.5)
SPECS = [make_clip_spec(random.Random(seed), mixture=RICH) for seed in range(120)]


def test_objects_never_touch_the_border() -> None:
    """Only the blur of a triangle's corners reaches it, faintly."""
    for spec, clip in zip(SPECS, draw_clips(SPECS), strict=True):
        border = torch.cat([clip[..., [0, -1], :].flatten(2), clip[..., [0, -1]].flatten(2)], dim=2)
        background = torch.tensor(BACKGROUNDS[spec.background]).view(1, 3, 1)
        assert float((border - background).abs().max()) < 0.06


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_edges_are_clean_mixtures_of_object_and_background(background: str) -> None:
    spec = make_clip_spec(random.Random(1), color="white", shape="circle", background=background)
    clip = draw_clips([spec])[0]
    low, high = torch.tensor(BACKGROUNDS[background]), torch.tensor(COLORS["white"])
    cover = (clip - low.view(3, 1, 1)) / (high - low).view(3, 1, 1)  # F 3 H W
    assert float(cover.min()) >= -1e-6
    assert float(cover.max()) <= 1 + 1e-6
    assert bool((cover[:, 0] - cover[:, 2]).abs().max() < 1e-5)


def test_two_objects_are_drawn_as_each_would_be_alone() -> None:
    pair = make_clip_spec(random.Random(3), num_objects=2)
    alone = [
        draw_clips([type(pair)(objects=(one,), background=pair.background)])[0]
        for one in pair.objects
    ]
    background = torch.tensor(BACKGROUNDS[pair.background]).view(3, 1, 1)
    both = alone[0] + alone[1] - background
    assert torch.allclose(draw_clips([pair])[0], both, atol=1e-6)
    assert float((alone[0] - alone[1]).abs().max()) > 0.5


def test_every_object_shows_its_full_color() -> None:
    for spec, clip in zip(SPECS, draw_clips(SPECS), strict=True):
        for thing in spec.objects:
            color = torch.tensor(PAINTS[thing.color]).view(1, 3, 1, 1)
            assert float((clip - color).abs().amax(dim=1).flatten(1).amin(dim=1).max()) < 1e-6


SHARES = (
    ("square", 1.0),
    ("circle", math.pi / 4),
    ("triangle", 0.5),
    ("diamond", 0.5),
    ("bar", 0.5),
    ("cross", 5 / 9),
    ("pillar", 0.5),
    ("ring", 3 * math.pi / 16),
    ("ell", 5 / 9),
    ("dome", math.pi / 8),
    ("chevron", 3 / 8),
)


@pytest.mark.parametrize(("shape", "share"), SHARES)
def test_shapes_cover_their_share_of_the_square_around_them(shape: str, share: float) -> None:
    grid = torch.arange(64.0) - 31.5
    distance = signed_distance(shape, grid, grid.view(-1, 1), torch.tensor(48.0))
    cover = (0.5 - distance).clamp(0, 1)
    assert float(cover.sum()) / 48**2 == pytest.approx(share, rel=0.02)
    across = max(int((cover > 0.5).any(dim=side).sum()) for side in (0, 1))
    assert 46 <= across <= 48


def test_the_share_of_every_shape_is_known() -> None:
    assert {shape for shape, _ in SHARES} == {*SHAPES, *UNNAMED_SHAPES}


def test_a_clip_of_one_frame_is_the_first_moment() -> None:
    spec = SPECS[0]
    assert torch.equal(draw_clips([spec], 1)[0, 0], draw_clips([spec], 16)[0, 0])


def test_chosen_moments_are_those_of_whole_clips() -> None:
    chosen = draw_frames(SPECS[:2], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    whole = draw_clips(SPECS[:2], 5)
    assert torch.equal(chosen[0], whole[0, [0, -1]])
    assert torch.equal(chosen[1], whole[1, [-1, 0]])
