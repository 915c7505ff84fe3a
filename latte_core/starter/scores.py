"""Measure how well a starter model does what its prompts, or its classes, say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from torch import Tensor

from .captions import base_prompt
from .measure import Measurement, measure_clip
from .questions import QUESTIONS, Question, is_right, make_questions
from .scene_parts import COLORS, DIRECTIONS, SHAPES

MakeClips = Callable[[Sequence[str], Sequence[str], Sequence[int], float], Tensor]
"""(prompts, negative prompts, seeds, guidance scale) -> frames (N, F, H, W, 3) in [0, 1]."""

MakeClassClips = Callable[[Sequence[str], Sequence[int], float], Tensor]
"""(class names, seeds, guidance scale) -> frames (N, F, H, W, 3) in [0, 1]."""

BATCH = 9
NEGATIVE_CLIPS = 45


class Rounded:
    """What all scores can do."""

    __slots__ = ()

    def to_dict(self: Any) -> dict[str, float]:
        """Return the values, rounded, for a card."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores(Rounded):
    """Shares between 0 and 1 over all base prompts; `clips` is how many were measured.

    `red_without_negative` and `red_with_negative` are the shares of red objects for "a square
    moving left" with an empty negative prompt and with "red". The last six are the shares of clips
    that are right, with guidance, for the prompts of `questions.py`.
    """

    clips: int
    color: float
    direction: float
    shape: float
    background_flicker: float
    color_unguided: float
    direction_unguided: float
    red_without_negative: float
    red_with_negative: float
    held_out_wordings: float
    unseen_pairs: float
    two_objects: float
    unseen_together: float
    sizes: float
    backgrounds: float


def base_grid(num_seeds: int) -> list[tuple[str, str, str, int]]:
    """Return every colour, shape, direction and seed."""
    return list(product(COLORS, SHAPES, DIRECTIONS, range(num_seeds)))


def in_batches(count: int) -> Iterator[range]:
    """Split 0 .. count - 1 into runs of BATCH."""
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))


def each_clip(
    make_clips: MakeClips,
    prompts: Sequence[str],
    negatives: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float,
    report: Callable[[int], None],
) -> Iterator[Tensor]:
    """Make a clip (F, H, W, 3) of each prompt; `report` is told how many were finished."""
    for part in in_batches(len(prompts)):
        frames = make_clips(
            [prompts[k] for k in part],
            [negatives[k] for k in part],
            [seeds[k] for k in part],
            guidance_scale,
        )
        yield from frames
        report(len(part))


def measure_prompts(
    make_clips: MakeClips,
    prompts: Sequence[str],
    negatives: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float,
    report: Callable[[int], None],
) -> list[Measurement]:
    """Make a clip of each prompt and measure it; `report` is told the clips finished."""
    clips = each_clip(make_clips, prompts, negatives, seeds, guidance_scale, report)
    return [measure_clip(clip) for clip in clips]


def share_answered(
    name: str,
    make_clips: MakeClips,
    guidance_scale: float,
    num_seeds: int,
    report: Callable[[int], None],
) -> float:
    """Return the share of right answers to the questions `name` of `questions.py`."""
    asked: list[Question] = make_questions(name, num_seeds)
    prompts = [one.prompt for one in asked]
    empty = [""] * len(asked)
    clips = each_clip(make_clips, prompts, empty, range(len(asked)), guidance_scale, report)
    pairs = zip(clips, asked, strict=True)
    return share([is_right(name, clip, one.wanted) for clip, one in pairs])


def share(flags: Sequence[bool]) -> float:
    """Return the share of true values."""
    return sum(flags) / len(flags)


def score_starter(
    make_clips: MakeClips,
    guidance_scale: float,
    *,
    num_seeds: int = 2,
    report: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Measure a starter over all base prompts and further questions, and what guidance changes.

    Args:
        make_clips: makes videos; see `MakeClips`.
        guidance_scale: the model's own default; compared with 1, which is no guidance.
        num_seeds: clips of each prompt.
        report: told how many clips were finished, for a progress bar.
    """
    grid = base_grid(num_seeds)
    prompts = [base_prompt(color, shape, direction) for color, shape, direction, _ in grid]
    empty = [""] * len(grid)
    seeds = [seed + 1000 * k for k, (*_, seed) in enumerate(grid)]
    guided = measure_prompts(make_clips, prompts, empty, seeds, guidance_scale, report)
    plain = measure_prompts(make_clips, prompts, empty, seeds, 1.0, report)
    partial = ["a square moving left"] * NEGATIVE_CLIPS
    many = list(range(NEGATIVE_CLIPS))
    none = [""] * NEGATIVE_CLIPS
    free = measure_prompts(make_clips, partial, none, many, guidance_scale, report)
    red = ["red"] * NEGATIVE_CLIPS
    negated = measure_prompts(make_clips, partial, red, many, guidance_scale, report)
    answered = {
        name: share_answered(name, make_clips, guidance_scale, num_seeds, report)
        for name in QUESTIONS
    }
    wanted = list(zip(grid, guided, plain, strict=True))
    return Scores(
        clips=len(grid),
        color=share([seen.color == spec[0] for spec, seen, _ in wanted]),
        shape=share([seen.shape == spec[1] for spec, seen, _ in wanted]),
        direction=share([seen.direction == spec[2] for spec, seen, _ in wanted]),
        background_flicker=sum(seen.background_flicker for seen in guided) / len(guided),
        color_unguided=share([seen.color == spec[0] for spec, _, seen in wanted]),
        direction_unguided=share([seen.direction == spec[2] for spec, _, seen in wanted]),
        red_without_negative=share([seen.color == "red" for seen in free]),
        red_with_negative=share([seen.color == "red" for seen in negated]),
        **answered,
    )


def total_clips(num_seeds: int = 2) -> int:
    """Return how many clips `score_starter` makes."""
    asked = sum(len(make_questions(name, num_seeds)) for name in QUESTIONS)
    return 2 * len(base_grid(num_seeds)) + 2 * NEGATIVE_CLIPS + asked


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores(Rounded):
    """Shares between 0 and 1 over all classes; `clips` is how many were measured."""

    clips: int
    color: float
    shape: float
    background_flicker: float
    color_unguided: float
    shape_unguided: float


def score_class_starter(
    make_clips: MakeClassClips,
    guidance_scale: float,
    *,
    num_seeds: int = 2,
    report: Callable[[int], None] = lambda _: None,
) -> ClassScores:
    """Measure colour and shape over all classes, with guidance and without; as `score_starter`."""
    wanted = list(product(COLORS, SHAPES, range(num_seeds)))
    names = [f"{color} {shape}" for color, shape, _ in wanted]
    seeds = [seed + 1000 * k for k, (*_, seed) in enumerate(wanted)]
    found: list[list[Measurement]] = []
    for scale in (guidance_scale, 1.0):
        seen: list[Measurement] = []
        for part in in_batches(len(names)):
            frames = make_clips([names[k] for k in part], [seeds[k] for k in part], scale)
            seen.extend(measure_clip(clip) for clip in frames)
            report(len(part))
        found.append(seen)
    guided, plain = found
    return ClassScores(
        clips=len(names),
        color=share([one.color == want[0] for want, one in zip(wanted, guided, strict=True)]),
        shape=share([one.shape == want[1] for want, one in zip(wanted, guided, strict=True)]),
        background_flicker=sum(one.background_flicker for one in guided) / len(guided),
        color_unguided=share(
            [one.color == want[0] for want, one in zip(wanted, plain, strict=True)]
        ),
        shape_unguided=share(
            [one.shape == want[1] for want, one in zip(wanted, plain, strict=True)]
        ),
    )


def total_class_clips(num_seeds: int = 2) -> int:
    """Return how many clips `score_class_starter` makes."""
    return 2 * len(COLORS) * len(SHAPES) * num_seeds
