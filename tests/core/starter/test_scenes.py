"""What clips show must be what the names say, and objects must never meet."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations, product

import pytest

from latte_core.errors import InvalidInputError
from latte_core.starter.scene_layout import place_object, smallest_gap
from latte_core.starter.scene_parts import (
    BACKGROUNDS,
    CLIP_SIDE,
    COLORS,
    DIRECTIONS,
    GAP,
    SHAPES,
    SIZES,
    UNNAMED_COLORS,
    UNNAMED_SHAPES,
    ObjectSpec,
)
from latte_core.starter.scenes import (
    HELD_OUT_PAIRS,
    TEXT_MIXTURE,
    Drawn,
    Mixture,
    is_held_out,
    make_clip_spec,
)

RICH = Mixture(sized=0.3, backgrounds=0.2, pairs=0.4, extras=0.5)
SPECS = [make_clip_spec(random.Random(seed), mixture=RICH) for seed in range(300)]
LOOKS = list(product(COLORS, SHAPES))


def test_objects_have_the_size_that_their_name_says() -> None:
    sizes: dict[str, list[float]] = {name: [] for name in SIZES}
    for thing in (one for spec in SPECS for one in spec.objects):
        sizes[thing.size_name].append(thing.size)
    for name, (low, high) in SIZES.items():
        assert low <= min(sizes[name]) < max(sizes[name]) <= high


@pytest.mark.parametrize("moment", [0.0, 0.3, 1.0])
def test_no_object_leaves_the_picture(moment: float) -> None:
    for thing in (one for spec in SPECS for one in spec.objects):
        for place in thing.center(moment):
            assert thing.size / 2 + 1 - 1e-9 <= place <= CLIP_SIDE - thing.size / 2 - 1 + 1e-9


def test_two_objects_differ_in_color_and_keep_their_distance() -> None:
    pairs = [spec.objects for spec in SPECS if len(spec.objects) == 2]
    assert len(pairs) > 60
    for first, second in pairs:
        assert first.color != second.color
        reach = (first.size + second.size) / 2
        for step in range(201):
            (x, y), (other_x, other_y) = first.center(step / 200), second.center(step / 200)
            assert max(abs(x - other_x), abs(y - other_y)) - reach >= GAP - 1e-9


def thing_at(start: tuple[float, float], direction: str) -> ObjectSpec:
    return ObjectSpec(
        color="red",
        shape="square",
        direction=direction,
        size_name="medium",
        size=10.0,
        start=start,
        travel=0.0 if direction == "still" else 20.0,
    )


@pytest.mark.parametrize(
    ("other", "gap"),
    [
        (thing_at((30.0, 10.0), "still"), 10.0),  # 30 - 10 wide, less 10 of size
        (thing_at((30.0, 10.0), "left"), -10.0),  # stands on it at the end
        (thing_at((24.0, 34.0), "up"), 4.0),  # passes it at 14 pixels
        (thing_at((20.0, 36.0), "up"), 0.0),  # passes, corner to edge
    ],
)
def test_the_smallest_gap_is_found_at_any_moment(other: ObjectSpec, gap: float) -> None:
    assert smallest_gap([thing_at((10.0, 10.0), "still"), other]) == pytest.approx(gap)
    assert smallest_gap([other, thing_at((10.0, 10.0), "still")]) == pytest.approx(gap)


def test_a_gap_is_least_between_the_first_and_the_last_moment() -> None:
    """One goes down, one right, and they are as near as 15 pixels when both lie 5 apart in x."""
    down = thing_at((30.0, 10.0), "down")  # (30, 10 + 20 t)
    right = thing_at((10.0, 45.0), "right")  # (10 + 20 t, 45)
    # |x| = 20 - 20 t and |y| = 35 - 20 t: y decides, and is 15 at the end.
    assert smallest_gap([down, right]) == pytest.approx(5.0)
    crossing = thing_at((20.0, 30.0), "up")  # x = 10, y = 20 - 40 t
    assert smallest_gap([down, crossing]) == pytest.approx(0.0)


def test_shares_of_a_mixture_are_those_asked_for() -> None:
    rng = random.Random(0)
    mixture = Mixture(sized=0.2, backgrounds=0.1, pairs=0.3, apart=0.25, extras=0.0)
    kinds = Counter(mixture.draw(rng) for _ in range(20_000))
    shares = {kind: count / 20_000 for kind, count in kinds.items()}
    assert shares == {
        Drawn(two_objects=True): pytest.approx(0.3, abs=0.01),
        Drawn(other_sizes=True): pytest.approx(0.2, abs=0.01),
        Drawn(other_background=True): pytest.approx(0.1, abs=0.01),
        Drawn(apart=True): pytest.approx(0.25, abs=0.01),
        Drawn(): pytest.approx(0.15, abs=0.01),
    }


def test_other_sizes_and_backgrounds_come_beside_in_the_share_of_extras() -> None:
    rng = random.Random(0)
    kinds = [Mixture(pairs=1.0, extras=0.25).draw(rng) for _ in range(20_000)]
    for part in ("other_sizes", "other_background"):
        share = sum(getattr(kind, part) for kind in kinds) / len(kinds)
        assert share == pytest.approx(0.25, abs=0.01)


def test_apart_clips_show_one_part_that_has_a_name_and_one_that_has_none() -> None:
    mixture = Mixture(apart=1.0)
    specs = [make_clip_spec(random.Random(seed), mixture=mixture) for seed in range(1500)]
    looks = Counter((one.color, one.shape) for spec in specs for one in spec.objects)
    assert set(looks) == {
        *product(UNNAMED_COLORS, SHAPES),
        *product(COLORS, UNNAMED_SHAPES),
    }
    assert not any(one.is_named for spec in specs for one in spec.objects)


def test_colors_without_a_name_are_nobody_elses() -> None:
    for unnamed, named_color in product(UNNAMED_COLORS.values(), COLORS.values()):
        assert math.dist(unnamed, named_color) > 0.3


def test_plain_clips_are_single_and_of_the_default_size_and_background() -> None:
    for seed in range(100):
        spec = make_clip_spec(random.Random(seed))
        assert [one.size_name for one in spec.objects] == ["medium"]
        assert spec.background == "black"
        thing = spec.objects[0]
        assert thing.travel == 0 if thing.direction == "still" else 20 <= thing.travel <= 36


@pytest.mark.parametrize(
    "shares",
    [{"sized": -0.1}, {"pairs": 0.6, "sized": 0.5}, {"extras": 2.0}, {"apart": 0.6, "sized": 0.5}],
)
def test_impossible_mixtures_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="must be 0 to 1"):
        Mixture(**shares)


@pytest.mark.parametrize("num_objects", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_given_parts_are_kept(num_objects: int, size: str, background: str) -> None:
    spec = make_clip_spec(
        random.Random(5),
        color="purple",
        shape="square",
        direction="up",
        size=size,
        background=background,
        num_objects=num_objects,
        mixture=TEXT_MIXTURE,
        allow_held_out=False,
    )
    first = spec.objects[0]
    assert (spec.color, spec.shape, spec.direction) == ("purple", "square", "up")
    assert (first.size_name, spec.background, len(spec.objects)) == (size, background, num_objects)


def test_text_training_never_shows_what_is_held_out() -> None:
    for seed in range(600):
        spec = make_clip_spec(random.Random(seed), mixture=RICH, allow_held_out=False)
        looks = [(one.color, one.shape) for one in spec.objects]
        assert not is_held_out(*looks)
        assert not set(looks) & set(HELD_OUT_PAIRS)


def test_held_out_looks_are_drawn_where_they_are_allowed() -> None:
    looks = {
        (spec.color, spec.shape) for spec in map(make_clip_spec, map(random.Random, range(400)))
    }
    assert looks == set(LOOKS)


def test_every_color_and_shape_is_left_for_training() -> None:
    left = [look for look in LOOKS if not is_held_out(look)]
    assert {color for color, _ in left} == set(COLORS)
    assert {shape for _, shape in left} == set(SHAPES)


def test_about_a_seventh_of_trained_looks_are_kept_apart_in_either_order() -> None:
    left = [look for look in LOOKS if not is_held_out(look)]
    pairs = [(a, b) for a, b in combinations(left, 2) if a[0] != b[0]]
    apart = [pair for pair in pairs if is_held_out(*pair)]
    assert 0.1 < len(apart) / len(pairs) < 0.2
    assert all(is_held_out(b, a) for a, b in apart)


def named(seed: int, spread: float) -> list[tuple[str, str, str, str]]:
    spec = make_clip_spec(random.Random(seed), mixture=RICH, spread=spread)
    names = [(one.color, one.shape, one.direction, one.size_name) for one in spec.objects]
    return [*names, ("", "", "", spec.background)]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_what_is_named_does_not_depend_on_the_spread(spread: float) -> None:
    assert [named(seed, spread) for seed in range(40)] == [named(seed, 1.0) for seed in range(40)]


def test_without_spread_what_is_named_decides_everything() -> None:
    mixture = Mixture(sized=0.3, pairs=0.4)
    places: dict[object, set[object]] = {}
    for seed in range(200):
        spec = make_clip_spec(random.Random(seed), mixture=mixture, spread=0.0)
        moves = tuple((one.direction, one.size_name) for one in spec.objects)
        there = tuple((one.start, one.size, one.travel) for one in spec.objects)
        places.setdefault(moves, set()).add(there)
    assert 30 < len(places) < 100
    assert all(len(there) == 1 for there in places.values())


def test_the_same_seed_draws_the_same_clip() -> None:
    first, again = (make_clip_spec(random.Random(7), mixture=RICH) for _ in range(2))
    assert first == again


def test_an_object_uses_all_of_the_room_it_has() -> None:
    kind = (("red", "circle"), "right", "big")
    thing = place_object(kind, [1.0, 1.0, 1.0, 0.0], (20.0, 36.0), CLIP_SIDE)
    assert (thing.size, thing.travel) == (28.0, 34.0)  # 64 less 2 of margin and 28
    assert thing.center(1.0) == pytest.approx((49.0, 15.0))
    assert set(DIRECTIONS) >= {thing.direction}
