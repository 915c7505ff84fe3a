"""The rooms of the glue stand on one another in one order, and nothing in it asks for a node."""

from __future__ import annotations

from pathlib import Path

import pytest
from latte_test_support.source import ROOT, imports_of, python_files

# Rooms of one row never import each other; a room imports from the rows above it.
ROWS = ({"base"}, {"text", "vae"}, {"model"}, {"run"}, {"training"})
FILES = python_files("nodes/host")


def row_of(room: str) -> int:
    """Return a room's place in the order."""
    return next(row for row, rooms in enumerate(ROWS) if room in rooms)


def room_of(name: str) -> str:
    """Return the room that a dotted name of the glue belongs to."""
    return name.split(".")[2]


def dotted(path: Path) -> str:
    """Return a file's dotted name from the root."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {room_of(dotted(path)) for path in FILES} - {"__init__"}
    assert rooms == set[str]().union(*ROWS)


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_a_room_imports_from_itself_and_from_rows_above_it(path: Path) -> None:
    """Lazy imports count as well."""
    found = [one for one in imports_of(path) if one.is_relative and one.name.startswith("nodes")]
    outside = [str(one) for one in found if not one.name.startswith("nodes.host.")]
    own = room_of(dotted(path))
    wrong = [
        str(one)
        for one in found
        if room_of(one.name) != own and row_of(room_of(one.name)) >= row_of(own)
    ]
    assert outside + wrong == []
