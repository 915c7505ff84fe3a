"""Place the objects of a clip so that none leaves the picture or comes near another."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from .scene_parts import (
    DIRECTIONS,
    GAP,
    MARGIN,
    PAIR_TRAVELS,
    SIZES,
    TRAVELS,
    Kind,
    ObjectSpec,
)


def lay_out(
    kinds: Sequence[Kind], rng: random.Random, spread: float, side: int
) -> tuple[ObjectSpec, ...]:
    """Draw sizes in pixels, travels and places of objects until none is in another's way."""
    if len(kinds) == 1:
        middle = [0.5] * 4
    else:
        said = "-".join(f"{direction} {size}" for _, direction, size in kinds)
        middle = draw_free_units(kinds, random.Random(said), [0.0] * 8, 1.0, side)
    return place_all(kinds, draw_free_units(kinds, rng, middle, spread, side), side)


def draw_free_units(
    kinds: Sequence[Kind], rng: random.Random, middle: Sequence[float], spread: float, side: int
) -> list[float]:
    """Draw four numbers of `place_object` for each object, leaving `middle` by `spread` at most."""
    while True:
        units = [place + spread * (rng.random() - place) for place in middle]
        if smallest_gap(place_all(kinds, units, side)) >= GAP:
            return units


def place_all(kinds: Sequence[Kind], units: Sequence[float], side: int) -> tuple[ObjectSpec, ...]:
    """Return the objects for four numbers each."""
    travels = TRAVELS if len(kinds) == 1 else PAIR_TRAVELS
    return tuple(
        place_object(kind, units[4 * k : 4 * k + 4], travels, side) for k, kind in enumerate(kinds)
    )


def place_object(
    kind: Kind, units: Sequence[float], travels: tuple[float, float], side: int
) -> ObjectSpec:
    """Return an object; the units, 0 .. 1, choose its size, travel, x and y within their ranges."""
    (color, shape), direction, size_name = kind

    def choose(low: float, high: float, unit: float) -> float:
        return low + (high - low) * unit

    size = choose(*SIZES[size_name], units[0])
    room = side - 2 * MARGIN - size
    travel = choose(travels[0], min(travels[1], room), units[1])
    step_x, step_y = DIRECTIONS[direction]
    if direction == "still":
        travel = 0.0
    low, high = size / 2 + MARGIN, side - size / 2 - MARGIN

    def place(step: int, unit: float) -> float:
        before, after = (travel if step < 0 else 0.0), (travel if step > 0 else 0.0)
        return choose(low + before, high - after, unit)

    return ObjectSpec(
        color=color,
        shape=shape,
        direction=direction,
        size_name=size_name,
        size=size,
        start=(place(step_x, units[2]), place(step_y, units[3])),
        travel=travel,
    )


def smallest_gap(objects: Sequence[ObjectSpec]) -> float:
    """Return the least distance in pixels between two objects' bounding squares over the clip.

    It is the larger of the distances along x and y; infinite for a single object.
    """
    if len(objects) == 1:
        return float("inf")
    first, second = objects
    reach = (first.size + second.size) / 2
    gaps: list[float] = []
    for moment in turning_moments(first, second):
        x, y = first.center(moment)
        other_x, other_y = second.center(moment)
        gaps.append(max(abs(x - other_x), abs(y - other_y)) - reach)
    return min(gaps)


def turning_moments(first: ObjectSpec, second: ObjectSpec) -> Iterator[float]:
    """Yield the moments at which the larger of |x| and |y| between two objects can be least."""
    yield 0.0
    yield 1.0
    begin = [a - b for a, b in zip(first.start, second.start, strict=True)]
    end = [a - b for a, b in zip(first.center(1.0), second.center(1.0), strict=True)]
    for weights in ((1, 0), (0, 1), (1, 1), (1, -1)):  # x = 0, y = 0, x = -y, x = y
        low = weights[0] * begin[0] + weights[1] * begin[1]
        high = weights[0] * end[0] + weights[1] * end[1]
        if low * high < 0:
            yield low / (low - high)
