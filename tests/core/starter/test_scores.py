"""Scores must be full marks for clips that show what was asked, and only for those."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latte_core.starter.caption_forms import HELD_OUT_MOVING, HELD_OUT_STILL
from latte_core.starter.drawing import draw_clips
from latte_core.starter.questions import QUESTIONS, is_right, make_questions
from latte_core.starter.scene_parts import ClipSpec
from latte_core.starter.scenes import HELD_OUT_PAIRS, is_held_out, make_clip_spec
from latte_core.starter.scores import base_grid, score_starter, total_clips


def frames_of(spec: ClipSpec) -> Tensor:
    return draw_clips([spec])[0].permute(0, 2, 3, 1)


def answers() -> dict[str, ClipSpec]:
    """What each question's prompt asks for."""
    return {one.prompt: one.wanted for name in QUESTIONS for one in make_questions(name, 1)}


def draw_answers(
    prompts: Sequence[str], negatives: Sequence[str], seeds: Sequence[int], scale: float
) -> Tensor:
    """Draw what the prompts say; without guidance the colour is ignored."""
    known = answers()
    specs: list[ClipSpec] = []
    for prompt, negative, seed in zip(prompts, negatives, seeds, strict=True):
        if prompt in known:
            specs.append(known[prompt])
            continue
        words = prompt.split()
        color = words[1] if scale > 1 and len(words) == 5 and words[1] != "square" else None
        shape = next((word for word in words if word in ("circle", "triangle")), "square")
        rng = random.Random(seed)
        spec = make_clip_spec(rng, color=color, shape=shape, direction=words[-1])
        if negative and spec.color == negative:
            spec = make_clip_spec(random.Random(seed), color="blue", shape=shape)
        specs.append(spec)
    return draw_clips(specs).permute(0, 1, 3, 4, 2)


def test_scores_are_right_when_clips_show_what_was_asked() -> None:
    done: list[int] = []
    scores = score_starter(draw_answers, 4.0, num_seeds=1, report=done.append)
    assert (scores.color, scores.shape, scores.direction) == (1.0, 1.0, 1.0)
    assert {name: getattr(scores, name) for name in QUESTIONS} == dict.fromkeys(QUESTIONS, 1.0)
    assert scores.color_unguided < 0.6
    assert scores.red_with_negative == 0
    assert scores.red_without_negative > 0.05
    assert scores.clips == len(base_grid(1)) == 90
    assert sum(done) == total_clips(1)
    assert set(QUESTIONS) < set(scores.to_dict())


@pytest.mark.parametrize("name", ["held_out_wordings", "two_objects", "sizes"])
def test_a_clip_that_shows_nothing_is_never_right(name: str) -> None:
    empty = torch.full((16, 64, 64, 3), 0.07)
    assert not any(is_right(name, empty, one.wanted) for one in make_questions(name, 1))


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_the_same_every_time_and_differ_between_seeds(name: str) -> None:
    assert make_questions(name, 2) == make_questions(name, 2)
    one, two = make_questions(name, 1), make_questions(name, 2)
    assert two[: len(one)] == one
    assert len(two) == 2 * len(one)
    assert two[len(one) :] != one


def test_wordings_are_all_asked_once_for_each_seed() -> None:
    asked = make_questions("held_out_wordings", 1)
    assert len(asked) == len(HELD_OUT_MOVING) + len(HELD_OUT_STILL)
    assert not any(is_held_out((one.wanted.color, one.wanted.shape)) for one in asked)


def test_unseen_looks_and_unseen_company_are_asked_for() -> None:
    looks = {(one.wanted.color, one.wanted.shape) for one in make_questions("unseen_pairs", 1)}
    assert looks == set(HELD_OUT_PAIRS)
    for name, apart in (("two_objects", False), ("unseen_together", True)):
        for one in make_questions(name, 2):
            first, second = ((thing.color, thing.shape) for thing in one.wanted.objects)
            assert is_held_out(first, second) == apart
            assert not is_held_out(first)
            assert not is_held_out(second)


@pytest.mark.parametrize("name", ["two_objects", "unseen_together"])
def test_both_objects_have_to_be_right(name: str) -> None:
    wanted = make_questions(name, 1)[0].wanted
    first, second = wanted.objects
    assert is_right(name, frames_of(wanted), wanted)
    alone = ClipSpec(objects=(first,), background=wanted.background)
    assert not is_right(name, frames_of(alone), wanted)
    shapes = {"circle": "square", "square": "triangle", "triangle": "circle"}
    other = ClipSpec(
        objects=(first, replace(second, shape=shapes[second.shape])), background=wanted.background
    )
    assert not is_right(name, frames_of(other), wanted)


def test_a_wrong_size_or_background_is_wrong() -> None:
    spec = make_clip_spec(random.Random(0), size="small", background="gray")
    big = make_clip_spec(random.Random(0), size="big", background="gray")
    assert is_right("sizes", frames_of(spec), spec)
    assert not is_right("sizes", frames_of(spec), big)
    black = make_clip_spec(random.Random(0), size="small")
    assert is_right("backgrounds", frames_of(spec), spec)
    assert not is_right("backgrounds", frames_of(black), spec)
