"""The rules of rooms and floors, each on a small made-up tree that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from latte_test_support.house import (
    FILES,
    Arrow,
    Floors,
    alike,
    arrows_in,
    circle_of,
    goes_down,
    misplaced,
    overfull,
    room_of,
)

HIGH = "house/high/b.py"
LOW = "house/low/a.py"
MADE_UP: Floors = {"house": (("single", "pair"), ("low", "lower"), (FILES, "high"))}


def build(root: Path, files: dict[str, str]) -> list[Arrow]:
    """Write a made-up tree into `root/house` and return its arrows."""
    for name, text in files.items():
        path = root / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return arrows_in("house", "house", root)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        pytest.param(HIGH, LOW, True, id="a room, a lower one"),
        pytest.param(LOW, HIGH, False, id="a room, a higher one"),
        pytest.param(LOW, "house/lower/a.py", False, id="a room, its neighbour"),
        pytest.param(LOW, "house/low/deep/b.py", True, id="within a room without floors"),
        pytest.param(LOW, "house/single.py", True, id="a room, a file below it"),
        pytest.param("house/single.py", LOW, False, id="a file, a room above it"),
        pytest.param("house/single.py", "house/pair.py", True, id="a file, its neighbour"),
        pytest.param("house/loose.py", LOW, True, id="an unnamed file, a room below it"),
        pytest.param("house/loose.py", "house/other.py", True, id="two unnamed files"),
        pytest.param("house/loose.py", HIGH, False, id="an unnamed file, a room beside it"),
        pytest.param(HIGH, "house/__init__.py", False, id="a room, the face above it"),
        pytest.param("house/__init__.py", HIGH, True, id="a face, what is in its folder"),
        pytest.param(HIGH, "house/low/__init__.py", True, id="a room, the face of a lower one"),
    ],
)
def test_the_floors_are_read_as_they_are_meant(
    importer: str, imported: str, expected: bool
) -> None:
    assert goes_down(Arrow(importer, imported, 1), MADE_UP) is expected


@pytest.mark.parametrize(
    "reach",
    [
        pytest.param("from .a import A", id="by its name"),
        pytest.param("from . import a", id="from the package"),
        pytest.param("import house.a", id="by its whole name"),
        pytest.param("def f():\n    from house.a import A", id="inside a function"),
        pytest.param(
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import A",
            id="for types alone",
        ),
    ],
)
def test_a_circle_of_files_is_seen_however_they_import(tmp_path: Path, reach: str) -> None:
    arrows = build(tmp_path, {"__init__.py": "", "a.py": "from .b import B", "b.py": reach})
    found = circle_of((one.importer, one.imported) for one in arrows)
    assert sorted(found[1:]) == ["house/a.py", "house/b.py"]
    assert found[0] == found[-1]


def test_a_circle_of_rooms_is_seen_though_no_files_make_one(tmp_path: Path) -> None:
    files = {"one/a.py": "from ..two import b", "two/b.py": "", "one/c.py": ""}
    arrows = build(tmp_path, {**files, "two/d.py": "from ..one.c import C"})
    assert not circle_of((one.importer, one.imported) for one in arrows)
    rooms = [(room_of(one.importer, {}), room_of(one.imported, {})) for one in arrows]
    assert set(circle_of(rooms)) == {"house/one", "house/two"}
    both = [(room_of(one.importer, {}, ["house"]), "house") for one in arrows]
    assert not circle_of(both)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["house/low/a.py", "house/high/b.py"], []),
        (["house/low/a.py"], ["house/high is not there"]),
        (["house/low/a.py", "house/high/b.py", "house/new/c.py"], ["house/new stands on no floor"]),
        (["house/low/a.py", "house/high/b.py", "house/d.py"], ["house/d stands on no floor"]),
        (["house/low/deep/a.py", "house/high/b.py"], ["house/low has rooms, but no floors"]),
    ],
)
def test_what_has_no_place_is_named(files: list[str], expected: list[str]) -> None:
    assert misplaced(files, {"house": (("low",), ("high",))}) == expected


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        (["a.py", "b.json"], 2, []),
        (["a.py", "b.json", "c.py"], 2, ["house: 3 files"]),
        (["a.txt", "b.txt", "c.txt"], 2, []),  # a folder without code is a shelf
    ],
)
def test_a_folder_that_is_too_full_is_named(
    names: list[str], most: int, expected: list[str]
) -> None:
    assert overfull([f"house/{name}" for name in names], most) == expected


@pytest.mark.parametrize(
    ("names", "is_too_many"),
    [
        (["sample.py", "sample_run.py", "sample_text.py"], False),
        (["sample.py", "sample_run.py", "sample_text.py", "samples.py"], True),
        (["test_sample.py", "sample_run.py", "sample_text.py", "test_sample_class.py"], True),
        (["sample.py", "sampler.py", "sampling.py", "sample_run.py"], False),
        (["sample.json", "sample_run.py", "sample_text.py", "sample_class.py"], False),
    ],
)
def test_a_first_word_that_four_files_share_is_named(names: list[str], is_too_many: bool) -> None:
    found = alike([f"house/{name}" for name in names], 3)
    assert found == ([f"house: {', '.join(sorted(names))}"] if is_too_many else [])
