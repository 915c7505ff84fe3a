"""Which frames are taken, against the reference's table and numpy's own spacing."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from latte_core.data.frame_sampling import frame_indices, num_needed
from latte_core.errors import InvalidInputError

SPREAD = (0, 3, 6, 9, 12, 15, 18, 21, 25, 28, 31, 34, 37, 40, 43, 47)  # docs/model.md 10
STRIDE = tuple(range(0, 48, 3))
LATTE = {"num_frames": 16, "interval": 3}


@pytest.mark.parametrize(("style", "offsets"), [("linspace", SPREAD), ("stride", STRIDE)])
@pytest.mark.parametrize("total", [49, 120, 1000])
def test_whole_window_has_the_offsets_of_the_reference(
    style: str, offsets: tuple[int, ...], total: int
) -> None:
    for seed in range(20):
        found = frame_indices(total, **LATTE, style=style, rng=random.Random(seed))
        start = random.Random(seed).randint(0, max(0, total - 48 - 1))
        assert found == tuple(start + offset for offset in offsets)


@pytest.mark.parametrize("style", ["linspace", "stride"])
def test_windows_start_anywhere_but_at_the_last_place(style: str) -> None:
    rng = random.Random(0)
    drawn = (frame_indices(53, **LATTE, style=style, rng=rng) for _ in range(400))
    starts = Counter(found[0] for found in drawn)
    assert set(starts) == {0, 1, 2, 3, 4}
    assert min(starts.values()) > 40


@pytest.mark.parametrize("total", range(16, 49))
def test_short_clip_is_spread_over_as_numpy_does(total: int) -> None:
    found = frame_indices(total, **LATTE, style="linspace", rng=random.Random(1))
    assert found == tuple(np.linspace(0, total - 1, 16, dtype=int).tolist())


@pytest.mark.parametrize("num_frames", [1, 2, 7, 16, 25, 64])
@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_every_spread_equals_numpys(num_frames: int, interval: int) -> None:
    window = num_frames * interval
    for total in range(num_frames, window + 40):
        rng = random.Random(total)
        found = frame_indices(
            total, num_frames=num_frames, interval=interval, style="linspace", rng=rng
        )
        start = random.Random(total).randint(0, max(0, total - window - 1))
        end = min(start + window, total)
        assert found == tuple(np.linspace(start, end - 1, num_frames, dtype=int).tolist())


@pytest.mark.parametrize("style", ["linspace", "stride"])
@pytest.mark.parametrize(("num_frames", "interval"), [(1, 1), (1, 3), (2, 1), (16, 3), (5, 4)])
def test_shortest_clip_that_is_taken_is_the_one_that_is_named(
    style: str, num_frames: int, interval: int
) -> None:
    settings = {"num_frames": num_frames, "interval": interval, "style": style}
    needed = num_needed(**settings)
    found = frame_indices(needed, **settings, rng=random.Random(0))
    assert len(found) == num_frames
    assert found[0] >= 0
    assert found[-1] < needed
    with pytest.raises(InvalidInputError, match=f"has {needed - 1} frames, but {needed} are"):
        frame_indices(needed - 1, **settings, rng=random.Random(0))


@pytest.mark.parametrize(("style", "needed"), [("linspace", 16), ("stride", 46)])
def test_number_of_needed_frames(style: str, needed: int) -> None:
    assert num_needed(**LATTE, style=style) == needed


def test_global_random_state_is_left_alone() -> None:
    random.seed(3)
    before = random.getstate()
    frame_indices(100, **LATTE, style="linspace", rng=random.Random(0))
    assert random.getstate() == before


@pytest.mark.parametrize(
    "wrong", [{"style": "all"}, {"num_frames": 0}, {"interval": 0}, {"num_frames": True}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {**LATTE, "style": "linspace", **wrong}
    with pytest.raises(InvalidInputError, match=next(iter(wrong)).replace("style", "sampling")):
        frame_indices(100, rng=random.Random(0), **settings)  # type: ignore[arg-type]
