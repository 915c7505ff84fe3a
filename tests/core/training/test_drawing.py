"""Clips must be what the starter's data sheet says."""

from __future__ import annotations

import random

import pytest
import torch

from latte_core.training.drawing import (
    BACKGROUND,
    COLORS,
    DIRECTIONS,
    all_captions,
    base_prompt,
    draw_clips,
    make_caption,
    make_clip_spec,
)

SPECS = [make_clip_spec(random.Random(seed)) for seed in range(60)]


def test_objects_have_the_stated_size_and_travel() -> None:
    for spec in SPECS:
        assert 14 <= spec.size <= 22
        assert spec.travel == 0 if spec.direction == "still" else 20 <= spec.travel <= 36


def test_objects_never_touch_the_border() -> None:
    clips = draw_clips(SPECS)
    border = torch.cat([clips[..., [0, -1], :].flatten(), clips[..., :, [0, -1]].flatten()])
    allowed = torch.tensor(BACKGROUND)
    assert bool((border.unsqueeze(1) - allowed).abs().min(dim=1).values.max() < 1e-6)


def test_edges_are_clean_mixtures_of_object_and_background() -> None:
    clip = draw_clips([make_clip_spec(random.Random(1), color="white", shape="circle")])[0]
    low, high = torch.tensor(BACKGROUND), torch.tensor(COLORS["white"])
    cover = (clip - low.view(3, 1, 1)) / (high - low).view(3, 1, 1)  # F 3 H W
    assert float(cover.min()) >= 0
    assert float(cover.max()) <= 1 + 1e-6
    assert bool((cover[:, 0] - cover[:, 2]).abs().max() < 1e-5)


def test_a_clip_of_one_frame_is_the_first_moment() -> None:
    spec = SPECS[0]
    assert torch.equal(draw_clips([spec], 1)[0, 0], draw_clips([spec], 16)[0, 0])


def test_the_same_seed_draws_the_same_clip() -> None:
    assert make_clip_spec(random.Random(7)) == make_clip_spec(random.Random(7))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_captions_name_what_is_shown(direction: str) -> None:
    rng = random.Random(0)
    spec = make_clip_spec(rng, color="blue", shape="square", direction=direction)
    captions = {make_caption(spec, rng) for _ in range(400)}
    assert base_prompt("blue", "square", direction) in captions
    assert captions <= set(all_captions())
    assert len(captions) > 8


def test_one_wording_is_the_plain_one() -> None:
    assert base_prompt("blue", "square", "up") == "a blue square moving up"
