"""Files of schedules, the search for the best one, and the words a cache is chosen by."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_core.acceleration import (
    DIAL,
    CacheSettings,
    CalibratedSchedule,
    FirstBlock,
    ScheduleFile,
    TeaCache,
    hand_schedule,
    parse_cache,
)
from latte_core.acceleration.schedule_search import best_schedule, smallest_budget
from latte_core.errors import CorruptCheckpointError, IncompatibleInputsError, InvalidInputError

FILE = ScheduleFile(
    model="tiny",
    digest="abc",
    sampler="ddim",
    num_steps=8,
    guidance_scale=2.5,
    forecast=2,
    prompts=3,
    schedules=(
        CalibratedSchedule(full_steps=(0, 1, 2, 4, 7), psnr=41.5),
        CalibratedSchedule(full_steps=(0, 3, 7)),
    ),
)


def random_edges(seed: int, num_steps: int, max_skip: int, levels: int) -> dict[Any, float]:
    """Return errors of all gaps that are allowed; few levels make many of them equal."""
    draws = torch.Generator().manual_seed(seed)
    return {
        (i, j): 0.0 if j == i + 1 else float(torch.randint(1, levels + 1, (), generator=draws))
        for i in range(num_steps)
        for j in range(i + 1, min(i + max_skip + 1, num_steps - 1) + 1)
    }


def cost(edges: dict[Any, float], steps: tuple[int, ...]) -> list[float] | None:
    """Return the errors of a list of steps, largest first, or None if a gap is not allowed."""
    gaps = list(itertools.pairwise(steps))
    return None if any(g not in edges for g in gaps) else sorted(edges[g] for g in gaps)[::-1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [2, 1000])
@pytest.mark.parametrize(("num_steps", "max_skip"), [(7, 2), (9, 3), (10, 9)])
def test_search_finds_what_trying_every_schedule_finds(
    num_steps: int, max_skip: int, levels: int, seed: int
) -> None:
    edges = random_edges(seed, num_steps, max_skip, levels)
    for num_full in range(smallest_budget(num_steps, max_skip), num_steps + 1):
        found = best_schedule(edges, num_steps, num_full)
        inner = itertools.combinations(range(1, num_steps - 1), num_full - 2)
        tried = [cost(edges, (0, *middle, num_steps - 1)) for middle in inner]
        best = min(one for one in tried if one is not None)
        assert len(found) == num_full
        assert cost(edges, found) == best


def test_search_puts_the_largest_error_before_the_sum() -> None:
    edges = {(0, 1): 0.0, (1, 4): 5.0, (0, 2): 3.0, (2, 4): 3.0}
    assert best_schedule(edges, 5, 3) == (0, 2, 4)


def test_search_says_if_no_schedule_is_that_short() -> None:
    edges = random_edges(0, 9, 2, 5)
    assert smallest_budget(9, 2) == 4
    with pytest.raises(InvalidInputError, match="no more than 2 in a row"):
        best_schedule(edges, 9, 3)


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    FILE.write(path)
    assert ScheduleFile.read(path) == FILE
    assert path.stat().st_size < 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"format": "other"}, CorruptCheckpointError, "format 'other'"),
        ({"version": 2}, CorruptCheckpointError, "version 2"),
        ({"colour": 1}, CorruptCheckpointError, "colour"),
        ({"schedules": []}, InvalidInputError, "one schedule"),
        ({"schedules": 3}, CorruptCheckpointError, "not a whole file"),
        ({"schedules": [{"psnr": 3}]}, CorruptCheckpointError, "full_steps"),
        ({"schedules": [{"full_steps": [0, 8]}]}, InvalidInputError, "0 to 7"),
        ({"schedules": [{"full_steps": [0, "x"]}]}, InvalidInputError, "'x'"),
        ({"num_steps": "8"}, InvalidInputError, "num_steps"),
        ({"forecast": 5}, InvalidInputError, "forecast"),
    ],
)
def test_a_damaged_file_is_refused_with_a_reason(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = tmp_path / "steps.json"
    FILE.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=words):
        ScheduleFile.read(path)


def test_what_is_no_file_of_schedules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no file"):
        ScheduleFile.read(tmp_path / "missing.json")
    (tmp_path / "page.json").write_text("<html>")
    with pytest.raises(CorruptCheckpointError, match="not JSON"):
        ScheduleFile.read(tmp_path / "page.json")


@pytest.mark.parametrize(("speed_up", "count"), [(1.0, 5), (1.6, 5), (2.0, 5), (2.4, 3), (9.0, 3)])
def test_the_nearest_speed_up_of_a_file_is_used(speed_up: float, count: int) -> None:
    policy = CacheSettings(schedules=FILE, speed_up=speed_up).make_policy(8, "ddim")
    assert policy is not None and policy == FILE.nearest(speed_up)
    assert len(FILE.nearest(speed_up).full_steps) == count


@pytest.mark.parametrize(("num_steps", "sampler"), [(9, "ddim"), (8, "euler")])
def test_a_run_that_was_not_calibrated_is_refused(num_steps: int, sampler: str) -> None:
    settings = CacheSettings(schedules=FILE)
    with pytest.raises(IncompatibleInputsError, match="calibrated on tiny for 8 model calls"):
        settings.make_policy(num_steps, sampler)


@pytest.mark.parametrize(("word", "speed_up"), DIAL.items())
def test_the_dial_is_a_schedule_for_any_number_of_steps(word: str, speed_up: float) -> None:
    for num_steps in (20, 50):
        made = parse_cache(word).make_policy(num_steps, "ddim")
        assert made == hand_schedule(num_steps, speed_up)


def test_every_spelling_of_a_cache_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    FILE.write(path)
    assert parse_cache("static:1.6") == CacheSettings(speed_up=1.6)
    assert parse_cache("teacache:0.2").make_policy(9, "") == TeaCache(threshold=0.2)
    assert parse_cache("first-block:0.05").make_policy(9, "") == FirstBlock(threshold=0.05)
    assert parse_cache("teacache").make_policy(9, "") == TeaCache()
    ranges = parse_cache("pab:4/6/9").broadcast
    assert (ranges.spatial, ranges.temporal, ranges.cross) == (4, 6, 9)
    assert parse_cache("pab").make_policy(9, "") is None
    assert parse_cache("none").policy == "none"
    for text, speed_up in ((f"{path}:3", 3.0), (str(path), 2.0)):
        settings = parse_cache(text)
        assert (settings.schedules, settings.speed_up, settings.order) == (FILE, speed_up, 2)


@pytest.mark.parametrize(
    "text",
    ["", "faster", "static:x", "static:0.5", "teacache:-1", "pab:2", "pab:2/3/x", "none:1",
     "quality:2", "missing.json"],
)  # fmt: skip
def test_other_words_are_refused_with_the_ones_that_there_are(text: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"quality|number from|must be|calibrate|as in pab:2/3/6"
    ):
        parse_cache(text)


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="belong to the cache static"):
        CacheSettings(policy="teacache", schedules=FILE)
    with pytest.raises(InvalidInputError, match="no cache called"):
        CacheSettings(policy="other")


def test_a_description_tells_apart_what_looks_different() -> None:
    texts = (
        "quality",
        "fast",
        "teacache:0.1",
        "teacache:0.2",
        "first-block:0.1",
        "pab",
        "pab:4/6/9",
    )
    described = [parse_cache(text).describe() for text in texts]
    described += [CacheSettings(schedules=FILE).describe(), CacheSettings(forecast=0).describe()]
    described += [CacheSettings(forecast=2).describe()]
    assert len(set(described)) == len(described)
