"""The rooms that Python files stand in, the arrows of imports between them, and what breaks a rule.

An arrow leads from a file to one that it imports, also inside a function or for types alone: a
reader follows it all the same. Files are named from the root of the repository.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

from .source import ROOT, Import, imports_of, python_files

FILES = "*"  # on a floor: the files of the folder itself that no floor names
FACE = "__init__"  # stands above everything in its folder
Floors = Mapping[str, tuple[tuple[str, ...], ...]]
"""For a folder its floors, lowest first: names of the rooms and files that stand side by side."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """An import of one file by another."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def arrows_in(folder: str, package: str, root: Path = ROOT) -> list[Arrow]:
    """Return the arrows between the files of a folder.

    Args:
        folder: from the root.
        package: name by which its files are imported, besides relatively; "" where the folder
            itself is on Python's path.
        root: of the repository.
    """
    files = python_files(folder, root=root)
    modules = {name: path for path in files for name in _names_of(path, root, folder, package)}
    found: dict[Arrow, None] = {}
    for path in files:
        importer = path.relative_to(root).as_posix()
        for one in imports_of(path, root, with_types=True):
            for target in _targets(one, modules):
                imported = target.relative_to(root).as_posix()
                if imported != importer:
                    found[Arrow(importer, imported, one.line)] = None
    return list(found)


def _names_of(path: Path, root: Path, folder: str, package: str) -> list[str]:
    """Return the dotted names of a file: from the root, and from its package."""
    inside = list(path.relative_to(root / folder).with_suffix("").parts)
    if inside[-1] == FACE:
        del inside[-1]
    starts = folder.split("/"), package.split(".") if package else []
    return [".".join([*start, *inside]) for start in starts]


def _targets(one: Import, modules: Mapping[str, Path]) -> list[Path]:
    """Return the files that an import asks for: modules, and those that define what it names."""
    wanted = [f"{one.name}.{name}" for name in one.names] or [one.name]
    homes = [modules.get(name) or modules.get(name.rpartition(".")[0]) for name in wanted]
    return [home for home in homes if home is not None]


def circle_of(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return names that lead from the first back to it along arrows, or nothing."""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for importer, imported in pairs:
        if importer != imported:
            graph[importer].add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # it lists the imported first
    return []


def room_of(file: str, floors: Floors, one_room: Iterable[str] = ()) -> str:
    """Return the room of a file: its folder, or itself where it stands on a floor of its own.

    Args:
        file: from the root.
        floors: which name files that stand alone.
        one_room: folders that are one room with all that is in them.
    """
    path = PurePosixPath(file)
    for folder in one_room:
        if path.is_relative_to(folder):
            return folder
    folder = path.parent.as_posix()
    own_floor = any(path.stem in floor for floor in floors.get(folder, ()))
    return file if own_floor or path.stem == FACE else folder


def goes_down(arrow: Arrow, floors: Floors) -> bool:
    """Return whether an arrow leads to a lower floor, or stays in a room.

    Only the folder that both files share decides. Rooms of one floor never import each other; files
    of one floor may. A face may import all of its folder, and nothing of that folder imports it.
    """
    importer, imported = PurePosixPath(arrow.importer), PurePosixPath(arrow.imported)
    shared = next(one for one in importer.parents if imported.is_relative_to(one))
    own, other = (_place_in(shared, one, floors) for one in (importer, imported))
    if FACE in (own, other):
        return other != FACE
    if own == other or shared.as_posix() not in floors:
        return True
    rows = [_row_of(one, floors[shared.as_posix()]) for one in (own, other)]
    if rows[0] == rows[1]:
        return importer.parent == imported.parent
    return rows[1] < rows[0]


def _place_in(folder: PurePosixPath, file: PurePosixPath, floors: Floors) -> str:
    """Return what stands for a file on the floors of a folder above it."""
    first = file.relative_to(folder).parts[0].removesuffix(".py")
    named = any(first in floor for floor in floors.get(folder.as_posix(), ()))
    is_other_file = file.parent == folder and not named and first != FACE
    return FILES if is_other_file else first


def _row_of(name: str, floors: tuple[tuple[str, ...], ...]) -> int:
    for row, floor in enumerate(floors):
        if name in floor:
            return row
    raise LookupError(f"{name} stands on no floor")


def misplaced(files: Iterable[str], floors: Floors, one_room: Iterable[str] = ()) -> list[str]:
    """Return the rooms and files that stand on no floor, and names on a floor that do not exist.

    Args:
        files: Python files, from the root.
        floors: of every folder that has rooms in it.
        one_room: folders that need none.
    """
    inside: defaultdict[str, set[str]] = defaultdict(set)
    rooms: set[str] = set()
    for path in map(PurePosixPath, files):
        for folder in path.parents:
            first = path.relative_to(folder).parts[0]
            inside[folder.as_posix()].add(first)
            if not first.endswith(".py"):
                rooms.add(folder.as_posix())
    wrong = [
        f"{folder} has rooms, but no floors"
        for folder in sorted(rooms - set(floors) - set(one_room))
        if any(PurePosixPath(folder).is_relative_to(house) for house in floors)
    ]
    for folder, rows in floors.items():
        known = {name for row in rows for name in row}
        has = {name.removesuffix(".py") for name in inside[folder]} - {FACE}
        loose = {name.removesuffix(".py") for name in inside[folder] if name.endswith(".py")}
        unknown = has - known - (loose if FILES in known else set())
        wrong += [f"{folder}/{name} stands on no floor" for name in sorted(unknown)]
        wrong += [f"{folder}/{name} is not there" for name in sorted(known - has - {FILES})]
    return wrong


def overfull(files: Iterable[str], most: int) -> list[str]:
    """Return the folders that hold Python and more than `most` files, each with its number."""
    sizes: Counter[str] = Counter()
    with_python: set[str] = set()
    for path in map(PurePosixPath, files):
        sizes[path.parent.as_posix()] += 1
        if path.suffix == ".py":
            with_python.add(path.parent.as_posix())
    return [f"{one}: {sizes[one]} files" for one in sorted(with_python) if sizes[one] > most]


def alike(files: Iterable[str], most: int) -> list[str]:
    """Return the first words that more than `most` Python files of a folder share.

    A first word ends at the first `_`; `test_` before it is left out, and an `s` behind it.
    """
    sharing: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path in map(PurePosixPath, files):
        if path.suffix == ".py" and not path.stem.startswith("__"):
            word = path.stem.removeprefix("test_").partition("_")[0].removesuffix("s")
            sharing[path.parent.as_posix(), word].append(path.name)
    return [
        f"{folder}: {', '.join(sorted(names))}"
        for (folder, _), names in sorted(sharing.items())
        if len(names) > most
    ]
