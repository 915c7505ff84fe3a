"""Captions must say what clips show, know what they say, and keep held-out wordings out."""

from __future__ import annotations

import random
import re

import pytest

from latte_core.starter.caption_forms import (
    HELD_OUT_MOVING,
    HELD_OUT_STILL,
    MOVING,
    PARTIAL_LOOKS,
    PARTIAL_MOVING,
    PARTIAL_STILL,
    STILL,
    WAYS,
)
from latte_core.starter.captions import (
    Caption,
    all_words,
    base_prompt,
    compose_caption,
    compose_held_out_caption,
    make_caption,
    plain_caption,
)
from latte_core.starter.scene_parts import (
    COLORS,
    DIRECTIONS,
    SHAPES,
    UNNAMED_COLORS,
    UNNAMED_SHAPES,
)
from latte_core.starter.scenes import Mixture, make_clip_spec

PAIRS = Mixture(pairs=1.0, extras=0.3)
RICH = Mixture(sized=0.3, backgrounds=0.3, pairs=0.3, extras=0.3)


def captions_of(mixture: Mixture, count: int) -> list[tuple[Caption, object]]:
    """Return captions with the clips they describe."""
    found: list[tuple[Caption, object]] = []
    for seed in range(count):
        rng = random.Random(seed)
        spec = make_clip_spec(rng, mixture=mixture, spread=0.0)
        found.append((compose_caption(spec, rng), spec))
    return found


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_captions_name_what_is_shown(direction: str) -> None:
    rng = random.Random(0)
    spec = make_clip_spec(rng, color="blue", shape="square", direction=direction)
    captions = {make_caption(spec, rng) for _ in range(400)}
    assert base_prompt("blue", "square", direction) in captions
    assert len(captions) > 25
    others = (set(COLORS) | set(SHAPES)) - {"blue", "square"}
    others |= {way for name, ways in WAYS.items() if name != direction for way in ways[:1]}
    assert not others & {word for text in captions for word in words_of(text)}


def test_plain_wordings_name_everything() -> None:
    assert base_prompt("blue", "square", "up") == "a blue square moving up"
    assert base_prompt("red", "circle", "still") == "a red circle standing still"
    spec = make_clip_spec(
        random.Random(0), color="red", shape="circle", direction="left", size="small"
    )
    assert plain_caption(spec) == "a small red circle moving left"
    rng = random.Random(2)
    pair = make_clip_spec(rng, num_objects=2, background="gray", size="big")
    first, second = pair.objects
    said = {
        "still": "standing still",
        **{name: f"moving {name}" for name in ("left", "right", "up", "down")},
    }
    assert plain_caption(pair) == (
        f"a big {first.color} {first.shape} {said[first.direction]} and "
        f"a {second.color} {second.shape} {said[second.direction]} on a gray background"
    )


@pytest.mark.parametrize("size", ["small", "big"])
def test_another_size_or_background_is_always_named(size: str) -> None:
    for seed in range(300):
        rng = random.Random(seed)
        spec = make_clip_spec(rng, size=size, background="navy")
        assert {size, "navy"} <= words_of(make_caption(spec, rng))


def test_a_default_size_is_never_named_and_the_background_seldom() -> None:
    texts = [caption.text for caption, _ in captions_of(Mixture(), 600)]
    assert not {"small", "big", "medium"} & {word for text in texts for word in words_of(text)}
    named = sum("background" in text or "black" in text for text in texts)
    assert 10 < named < 100


def test_what_has_no_name_is_left_out_and_what_has_one_is_said() -> None:
    for caption, spec in captions_of(Mixture(apart=1.0), 200):
        thing = spec.objects[0]  # type: ignore[attr-defined]
        (phrase,) = (phrase for phrase in caption.phrases if phrase.owner == 0)
        named = {"color": thing.color} if thing.color in COLORS else {"shape": thing.shape}
        assert phrase.said == {**named, "direction": thing.direction}
        assert words_of(caption.text) & {*COLORS, *SHAPES} == set(named.values())
        assert not words_of(caption.text) & {*UNNAMED_COLORS, *UNNAMED_SHAPES}


def test_phrases_know_what_the_caption_says_of_their_object() -> None:
    for caption, spec in captions_of(RICH, 400):
        for phrase in caption.phrases:
            if phrase.owner is None:
                continue
            thing = spec.objects[phrase.owner]  # type: ignore[attr-defined]
            shown = {
                "color": thing.color,
                "shape": thing.shape,
                "direction": thing.direction,
                "size": thing.size_name,
            }
            assert phrase.said.items() <= shown.items()
            words = words_of(phrase.text)
            assert ("color" in phrase.said) == (thing.color in words)
            assert ("shape" in phrase.said) == (thing.shape in words)
            assert ("size" in phrase.said) == bool(words & {"small", "big"})


def test_a_direction_is_said_where_a_caption_has_one() -> None:
    motion = {"left", "leftwards", "right", "rightwards", "up", "upwards", "down", "downwards"}
    motion |= {"top", "bottom", "still", "rest", "place", "not"}
    for caption, _ in captions_of(RICH, 400):
        owned = [phrase for phrase in caption.phrases if phrase.owner is not None]
        has_motion = bool(words_of(caption.text) & motion)
        assert {"direction" in phrase.said for phrase in owned} == {has_motion}, caption.text


def test_both_objects_of_a_pair_are_spoken_of() -> None:
    for caption, spec in captions_of(PAIRS, 200):
        looks = [{one.color, one.shape} for one in spec.objects]  # type: ignore[attr-defined]
        for owner, look in enumerate(looks):
            text = "".join(phrase.text for phrase in caption.phrases if phrase.owner == owner)
            assert look <= words_of(text)


def test_some_captions_of_a_pair_say_a_common_motion_once() -> None:
    texts = [caption.text for caption, _ in captions_of(PAIRS, 600)]
    assert any(", both moving" in text for text in texts)
    assert any(", both standing still" in text for text in texts)


def test_held_out_forms_are_no_trained_forms() -> None:
    trained = {*MOVING, *STILL, *PARTIAL_MOVING, *PARTIAL_STILL, *PARTIAL_LOOKS}
    assert not trained & {*HELD_OUT_MOVING, *HELD_OUT_STILL}


def test_held_out_captions_are_never_trained_but_their_words_are() -> None:
    held_out: set[str] = set()
    trained: set[str] = set()
    for seed in range(4000):
        rng = random.Random(seed)
        spec = make_clip_spec(rng, color="red", shape="circle")
        held_out.add(compose_held_out_caption(spec, rng, seed).text)
        trained.add(make_caption(spec, rng))
    assert len(held_out) > 100
    assert not held_out & trained
    words = {word for text in trained for word in words_of(text)}
    assert {word for text in held_out for word in words_of(text)} <= words


@pytest.mark.parametrize("direction", ["left", "still"])
def test_held_out_captions_name_everything(direction: str) -> None:
    forms = HELD_OUT_STILL if direction == "still" else HELD_OUT_MOVING
    spec = make_clip_spec(random.Random(0), color="red", shape="circle", direction=direction)
    texts = {compose_held_out_caption(spec, random.Random(0), k).text for k in range(len(forms))}
    assert len(texts) == len(forms)
    for text in texts:
        assert {"red", "circle"} <= words_of(text)


def test_all_words_are_those_of_captions() -> None:
    words = set(all_words())
    drawn = {word for caption, _ in captions_of(RICH, 3000) for word in words_of(caption.text)}
    assert words == drawn
