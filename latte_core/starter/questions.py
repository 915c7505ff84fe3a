"""What a text starter is asked beyond its plain prompts, and whether a clip answers it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from .caption_forms import HELD_OUT_MOVING, HELD_OUT_STILL
from .captions import compose_held_out_caption, plain_caption
from .measure import Measurement, measure_clip, measure_objects
from .scene_parts import (
    BACKGROUNDS,
    COLORS,
    DEFAULT_BACKGROUND,
    DEFAULT_SIZE,
    DIRECTIONS,
    SHAPES,
    SIZES,
    ClipSpec,
)
from .scenes import HELD_OUT_PAIRS, is_held_out, make_clip_spec

PAIRS_PER_SEED = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt and what a clip has to show; its size in pixels, travel and place do not count."""

    prompt: str
    wanted: ClipSpec


Ask = Callable[[random.Random], list[Question]]
Judge = Callable[[Tensor, ClipSpec], bool]


def ask_held_out_wordings(rng: random.Random) -> list[Question]:
    """Ask for looks that are trained, in every wording that is not."""
    moving = [name for name in DIRECTIONS if name != "still"]
    asked = [(k, rng.choice(moving)) for k in range(len(HELD_OUT_MOVING))]
    asked += [(k, "still") for k in range(len(HELD_OUT_STILL))]
    questions: list[Question] = []
    for wording, direction in asked:
        spec = make_clip_spec(rng, direction=direction, allow_held_out=False)
        prompt = compose_held_out_caption(spec, rng, wording).text
        questions.append(Question(prompt=prompt, wanted=spec))
    return questions


def ask_unseen_pairs(rng: random.Random) -> list[Question]:
    """Ask for every pair of colour and shape that is not trained, in every direction."""
    return [
        plain_question(make_clip_spec(rng, color=color, shape=shape, direction=direction))
        for (color, shape), direction in product(HELD_OUT_PAIRS, DIRECTIONS)
    ]


def ask_two_objects(rng: random.Random) -> list[Question]:
    """Ask for two objects whose looks are trained together."""
    specs = (
        make_clip_spec(rng, num_objects=2, allow_held_out=False) for _ in range(PAIRS_PER_SEED)
    )
    return [plain_question(spec) for spec in specs]


def ask_unseen_together(rng: random.Random) -> list[Question]:
    """Ask for two objects whose looks are trained, but never together."""
    questions: list[Question] = []
    while len(questions) < PAIRS_PER_SEED:
        spec = make_clip_spec(rng, num_objects=2)
        looks = [(one.color, one.shape) for one in spec.objects]
        if is_held_out(*looks) and not any(is_held_out(look) for look in looks):
            questions.append(plain_question(spec))
    return questions


def ask_sizes(rng: random.Random) -> list[Question]:
    """Ask for small and big objects of every colour and shape that are trained together."""
    return [
        plain_question(make_clip_spec(rng, color=color, shape=shape, size=size))
        for color, shape, size in product(COLORS, SHAPES, SIZES)
        if size != DEFAULT_SIZE and not is_held_out((color, shape))
    ]


def ask_backgrounds(rng: random.Random) -> list[Question]:
    """Ask for every colour on every background that is named."""
    return [
        plain_question(
            make_clip_spec(rng, color=color, background=background, allow_held_out=False)
        )
        for color, background in product(COLORS, BACKGROUNDS)
        if background != DEFAULT_BACKGROUND
    ]


def plain_question(spec: ClipSpec) -> Question:
    """Ask for a clip in the plain wording."""
    return Question(prompt=plain_caption(spec), wanted=spec)


def shows_objects(frames: Tensor, wanted: ClipSpec) -> bool:
    """Return whether a clip (F, H, W, 3) shows the objects wanted, and nothing else."""
    seen = [measure_clip(frames)] if len(wanted.objects) == 1 else measure_objects(frames)
    found = sorted(describe(one) for one in seen)
    return found == sorted((one.color, one.shape, one.direction) for one in wanted.objects)


def describe(seen: Measurement) -> tuple[str, str, str]:
    """Return colour, shape and direction; empty where nothing could be told."""
    return seen.color or "", seen.shape or "", seen.direction or ""


def shows_size(frames: Tensor, wanted: ClipSpec) -> bool:
    """Return whether the object of a clip (F, H, W, 3) is small, big or neither, as wanted."""
    return measure_clip(frames).size_name == wanted.objects[0].size_name


def shows_background(frames: Tensor, wanted: ClipSpec) -> bool:
    """Return whether a clip (F, H, W, 3) has the background wanted."""
    return measure_clip(frames).background == wanted.background


QUESTIONS: dict[str, tuple[Ask, Judge]] = {
    "held_out_wordings": (ask_held_out_wordings, shows_objects),
    "unseen_pairs": (ask_unseen_pairs, shows_objects),
    "two_objects": (ask_two_objects, shows_objects),
    "unseen_together": (ask_unseen_together, shows_objects),
    "sizes": (ask_sizes, shows_size),
    "backgrounds": (ask_backgrounds, shows_background),
}


def make_questions(name: str, num_seeds: int) -> list[Question]:
    """Return the questions of one of QUESTIONS, the same every time."""
    ask = QUESTIONS[name][0]
    return [one for seed in range(num_seeds) for one in ask(random.Random(f"{name}-{seed}"))]


def is_right(name: str, frames: Tensor, wanted: ClipSpec) -> bool:
    """Return whether a clip (F, H, W, 3) is a right answer to a question of one of QUESTIONS."""
    return QUESTIONS[name][1](frames, wanted)
