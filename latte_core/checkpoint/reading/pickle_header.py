"""Describe a PyTorch file, zip or old format, without unpickling it (R01, R03, R04, R07).

Old format: five pickles (magic number, protocol, machine, object, storage keys), then for each key
eight bytes with the number of elements, and the elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from ...errors import CorruptCheckpointError, UnsafeCheckpointError
from .archive import ArchiveEntry, read_archive
from .containers import choose_container
from .instructions import PickleReader
from .outline import MalformedPickleError, Outline, ShortPickleError, TensorOutline
from .records import FileHeader, FileKind, damaged, incomplete, shown, size_text
from .sniff import file_size

MAX_PICKLE_BYTES = 16 * 2**20
LEGACY_PICKLES = 5
COUNT_BYTES = 8
MAX_SHARING = 4  # tied weights may claim their bytes more than once, but not endlessly


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleHeader:
    """A described PyTorch file; `entries` are those of a zip archive."""

    header: FileHeader
    outline: Outline
    entries: Mapping[str, ArchiveEntry]


def read_zip_header(path: Path, handle: BinaryIO) -> PickleHeader:
    """Return the description of an open PyTorch zip file.

    Raises:
        UnsafeCheckpointError: if it would import anything but parts of tensors.
        CorruptCheckpointError: if the archive, the pickle or a tensor contradicts itself.
    """
    name = path.name
    entries = read_archive(path, handle)
    entry = entries["data.pkl"]
    if entry.num_bytes > MAX_PICKLE_BYTES:
        raise damaged(name, f"its table of contents has {size_text(entry.num_bytes)}")
    handle.seek(entry.offset)
    outline = Outline()
    follow(name, outline, BytesIO(handle.read(entry.num_bytes)), 1, is_whole=True)
    for storage in outline.storages.values():
        found = entries.get(f"data/{storage.key}")
        if found is None or found.num_bytes != storage.num_bytes:
            held = found.num_bytes if found else 0
            raise damaged(
                name,
                f"a tensor claims {size_text(storage.num_bytes)} but the archive stores "
                f"{size_text(held)} for it",
            )
    size = file_size(handle)
    header = header_of(path, FileKind.TORCH_ZIP, outline, size, size)
    return PickleHeader(header=header, outline=outline, entries=entries)


def read_legacy_header(path: Path, handle: BinaryIO) -> PickleHeader:
    """Return the description of an open PyTorch file in the old format.

    Raises:
        UnsafeCheckpointError: if it would import anything but parts of tensors.
        IncompleteFileError: if it ends early.
        CorruptCheckpointError: if it contradicts itself.
    """
    name, size = path.name, file_size(handle)
    handle.seek(0)
    start = BytesIO(handle.read(MAX_PICKLE_BYTES))
    outline = Outline()
    trees = follow(name, outline, start, LEGACY_PICKLES)
    outline.tree = trees[3]
    keys = trees[4]
    if not isinstance(keys, list) or set(cast("list[object]", keys)) != set(outline.storages):
        raise damaged(name, "its list of storages does not fit its tensors")
    data = sum(storage.num_bytes + COUNT_BYTES for storage in outline.storages.values())
    expected = start.tell() + data
    if size > expected:
        raise damaged(name, f"it has {size} bytes, but its tensors end at {expected}")
    header = header_of(path, FileKind.TORCH_LEGACY, outline, size, expected)
    return PickleHeader(header=header, outline=outline, entries={})


def follow(
    name: str, outline: Outline, data: BytesIO, count: int, *, is_whole: bool = False
) -> list[object]:
    """Return the outlines of `count` pickles in a row; refuse imports before anything else.

    Pickles that end early are damage if `data` is known to be whole, else a cut-off file.
    """
    reader = PickleReader(outline)
    trees: list[object] = []
    problem: MalformedPickleError | None = None
    try:
        for _ in range(count):
            reader.run(data)
            trees.append(outline.tree)
    except MalformedPickleError as error:
        problem = error
    refuse_imports(name, outline)
    if isinstance(problem, ShortPickleError) and not is_whole:
        size = len(data.getbuffer())
        if size >= MAX_PICKLE_BYTES:
            raise damaged(name, f"its table of contents exceeds {size_text(size)}") from problem
        raise incomplete(name, size, size + 1, at_least=True) from problem
    if problem is not None:
        raise damaged(name, f"its table of contents has {problem}") from problem
    return trees


def refuse_imports(name: str, outline: Outline) -> None:
    """Refuse a pickle that wants to import anything but parts of tensors."""
    forbidden = outline.forbidden
    if not forbidden:
        return
    listed = ", ".join(shown(item) for item in forbidden[:5])
    more = f" and {len(forbidden) - 5} more" if len(forbidden) > 5 else ""
    raise UnsafeCheckpointError(
        f"{name} asks Python to import {listed}{more} while loading, so it was not opened. "
        "Weights never need that. Use a .safetensors copy. If the file is your own, save the "
        "weights alone where it was made: torch.save(model.state_dict(), 'weights.pt')."
    )


def read_plain_pickle(path: Path, handle: BinaryIO) -> NoReturn:
    """Refuse a pickle that PyTorch did not write, naming what it would import.

    Raises:
        UnsafeCheckpointError, CorruptCheckpointError: always one of them.
    """
    handle.seek(0)
    follow(path.name, Outline(), BytesIO(handle.read(MAX_PICKLE_BYTES)), 1)
    raise CorruptCheckpointError(
        f"{path.name} looks like {FileKind.PICKLE.value}, but not like one that PyTorch wrote. "
        "Choose a .safetensors or .pt file of Latte."
    )


def header_of(path: Path, kind: FileKind, outline: Outline, size: int, expected: int) -> FileHeader:
    """Return the header for an outline whose tensors are all ordinary."""
    name = path.name
    container, weights = choose_container(name, outline.tree)
    for key, tensor in weights.items():
        if tensor.problem:
            raise CorruptCheckpointError(
                f"{name} cannot be used: tensor {shown(key)} {tensor.problem}. "
                "Ask for ordinary weights, best as .safetensors."
            )
    if outline.unusual:
        raise CorruptCheckpointError(
            f"{name} cannot be used: it holds {outline.unusual[0]}. "
            "Ask for ordinary weights, best as .safetensors."
        )
    check_sharing(name, outline, weights)
    return FileHeader(
        name=name,
        kind=kind,
        files=(path,),
        tensors={key: tensor.info for key, tensor in weights.items()},
        metadata={},
        container=container,
        num_bytes=size,
        expected_bytes=expected,
    )


def check_sharing(name: str, outline: Outline, weights: Mapping[str, TensorOutline]) -> None:
    """Refuse a small file whose tensors share their bytes so often that they grow huge."""
    stored = sum(storage.num_bytes for storage in outline.storages.values())
    claimed = sum(tensor.num_bytes for tensor in weights.values())
    if claimed > MAX_SHARING * stored:
        raise damaged(
            name, f"its tensors claim {size_text(claimed)} but it stores {size_text(stored)}"
        )
