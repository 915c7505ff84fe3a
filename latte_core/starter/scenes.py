"""Describe the clips that the starters are trained on: which objects they show, where, on what.

A clip shows one object or two on a plain background. An object keeps its size, moves at constant
speed in one direction or stands still, and never leaves the picture. Two objects differ in colour
and never come closer than GAP pixels to each other.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from ..errors import InvalidInputError
from .scene_layout import lay_out
from .scene_parts import (
    BACKGROUNDS,
    CLIP_SIDE,
    COLORS,
    DEFAULT_BACKGROUND,
    DEFAULT_SIZE,
    DIRECTIONS,
    SHAPES,
    SIZES,
    UNNAMED_COLORS,
    UNNAMED_SHAPES,
    ClipSpec,
    Kind,
    Look,
)

HELD_OUT_PAIRS = (("yellow", "triangle"), ("purple", "square"), ("green", "circle"))
HELD_OUT_COMBINATIONS = 15  # percent of the pairs of looks that text training never shows together


class Drawn(NamedTuple):
    """What kind of clip a mixture gave; see `Mixture`."""

    other_sizes: bool = False
    other_background: bool = False
    two_objects: bool = False
    apart: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Which kinds of clips are drawn; what the first four shares leave are plain single objects.

    Args:
        sized: share of single objects that are small or big.
        backgrounds: share of single objects on another background than the default.
        pairs: share of clips with two objects.
        apart: share of single objects with either a colour or a shape that has no name, so that
            their captions name the other alone.
        extras: share of the first three kinds that have, each by chance, other sizes or another
            background as well.

    Raises:
        InvalidInputError: if a share is not in 0 .. 1, or the first four sum to more than 1.
    """

    sized: float = 0.0
    backgrounds: float = 0.0
    pairs: float = 0.0
    apart: float = 0.0
    extras: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.sized, self.backgrounds, self.pairs, self.apart, self.extras)
        if not all(0 <= share <= 1 for share in shares) or sum(shares[:4]) > 1 + 1e-9:
            raise InvalidInputError(
                f"The shares of a mixture are {shares}, but each must be 0 to 1, and sized, "
                "backgrounds, pairs and apart together 1 at most. Lower them."
            )

    def draw(self, rng: random.Random) -> Drawn:
        """Draw what kind of clip comes next."""
        place = rng.random()
        more_sizes, more_backgrounds = rng.random() < self.extras, rng.random() < self.extras
        if place < self.pairs:
            return Drawn(more_sizes, more_backgrounds, two_objects=True)
        if place < self.pairs + self.sized:
            return Drawn(True, more_backgrounds)
        if place < self.pairs + self.sized + self.backgrounds:
            return Drawn(more_sizes, True)
        return Drawn(apart=place < self.pairs + self.sized + self.backgrounds + self.apart)


PLAIN = Mixture()
TEXT_MIXTURE = Mixture(sized=0.12, backgrounds=0.12, pairs=0.16)


def is_held_out(look: Look, other: Look | None = None) -> bool:
    """Return whether text training never shows this look, or these two looks in one clip."""
    if other is None:
        return look in HELD_OUT_PAIRS
    if is_held_out(look) or is_held_out(other):
        return True
    name = " ".join(part for one in sorted((look, other)) for part in one)
    return zlib.crc32(name.encode()) % 100 < HELD_OUT_COMBINATIONS


def matching_looks(color: str | None, shape: str | None) -> list[Look]:
    """Return the looks with the given parts."""
    looks = product(COLORS, SHAPES)
    return [one for one in looks if color in (None, one[0]) and shape in (None, one[1])]


def draw_looks(
    rng: random.Random, count: int, color: str | None, shape: str | None, allow_held_out: bool
) -> list[Look]:
    """Draw one look, or two of different colours; the given parts are those of the first."""
    looks = matching_looks(color, shape)
    if not allow_held_out:
        # What the caller asks for by name is drawn all the same.
        looks = [one for one in looks if not is_held_out(one)] or looks
    first = rng.choice(looks)
    if count == 1:
        return [first]
    others = [one for one in matching_looks(None, None) if one[0] != first[0]]
    if not allow_held_out:
        others = [one for one in others if not is_held_out(first, one)] or others
    return [first, rng.choice(others)]


def take_apart(rng: random.Random, look: Look) -> Look:
    """Return a look with the same shape in a colour without a name, or the other way round."""
    color, shape = look
    if rng.random() < 0.5:
        return rng.choice(list(UNNAMED_COLORS)), shape
    return color, rng.choice(UNNAMED_SHAPES)


def draw_size_names(rng: random.Random, count: int, first: str | None, others: bool) -> list[str]:
    """Draw the size names of a clip's objects, `first` for the first one.

    Args:
        rng: draws.
        count: of objects, 1 or 2.
        first: a key of SIZES, or None for any.
        others: whether not all may be the default, as long as `first` leaves the choice.
    """
    chosen = [list(names) for names in product(SIZES, repeat=count)]
    # Two big objects that move across each other's way find no room.
    chosen = [names for names in chosen if names.count("big") < 2]
    plain = [DEFAULT_SIZE] * count
    if not others:
        return [first or DEFAULT_SIZE, *plain[1:]]
    return rng.choice([n for n in chosen if n != plain and first in (None, n[0])] or [plain])


def draw_names(
    rng: random.Random,
    *,
    color: str | None = None,
    shape: str | None = None,
    direction: str | None = None,
    size: str | None = None,
    background: str | None = None,
    num_objects: int | None = None,
    mixture: Mixture = PLAIN,
    allow_held_out: bool = True,
) -> tuple[list[Kind], str]:
    """Draw what a caption can name: the objects' kinds, and the background.

    Args:
        rng: draws.
        color, shape, direction, size, background, num_objects, mixture, allow_held_out: as in
            `make_clip_spec`.
    """
    drawn = mixture.draw(rng)
    looks = draw_looks(rng, num_objects or 1 + drawn.two_objects, color, shape, allow_held_out)
    if drawn.apart:
        looks[0] = take_apart(rng, looks[0])
    directions = [rng.choice(list(DIRECTIONS)) for _ in looks]
    directions[0] = direction or directions[0]
    sizes = draw_size_names(rng, len(looks), size, drawn.other_sizes)
    others = [name for name in BACKGROUNDS if name != DEFAULT_BACKGROUND]
    other = rng.choice(others) if drawn.other_background else DEFAULT_BACKGROUND
    return list(zip(looks, directions, sizes, strict=True)), background or other


def make_clip_spec(
    rng: random.Random,
    *,
    color: str | None = None,
    shape: str | None = None,
    direction: str | None = None,
    size: str | None = None,
    background: str | None = None,
    num_objects: int | None = None,
    mixture: Mixture = PLAIN,
    allow_held_out: bool = True,
    side: int = CLIP_SIDE,
    spread: float = 1.0,
) -> ClipSpec:
    """Draw a random clip description; given parts are kept, those of objects for the first one.

    Args:
        rng: draws; what is named is drawn before places and pixels, and alike at every spread.
        color, shape, direction: keys of COLORS, SHAPES, DIRECTIONS, or None for any.
        size, background, num_objects: a key of SIZES, a key of BACKGROUNDS, 1 or 2; or None for
            what the mixture says.
        mixture: which kinds of clips are drawn; TEXT_MIXTURE for text training.
        allow_held_out: also draw looks and pairs of looks that are kept from text training.
        side: of the picture in pixels.
        spread: how much size, travel and place vary: 1 is all of their ranges, 0 is one fixed
            choice, so that what can be named alone decides every frame.
    """
    kinds, on = draw_names(
        rng,
        color=color,
        shape=shape,
        direction=direction,
        size=size,
        background=background,
        num_objects=num_objects,
        mixture=mixture,
        allow_held_out=allow_held_out,
    )
    return ClipSpec(objects=lay_out(kinds, rng, spread, side), background=on)
