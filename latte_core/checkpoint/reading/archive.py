"""Check the zip archive of a PyTorch file from its directory alone (R04).

Nothing is decompressed: an archive with a compressed entry is refused. Layout: PKWARE APPNOTE
4.3, with the zip64 fields of 4.3.14, 4.3.15 and 4.5.3 that torch writes for large files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import UnsafeCheckpointError
from .records import damaged, incomplete, shown, size_text
from .sniff import file_size

MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 32 * 2**20
END_MARK, END64_MARK, LOCATOR_MARK = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_COMMENT = 2**16
ZIP64_FIELD = 1
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveEntry:
    """One stored entry: its bytes are file[offset : offset + num_bytes]."""

    name: str
    offset: int
    num_bytes: int
    checksum: int


def read_archive(path: Path, handle: BinaryIO) -> dict[str, ArchiveEntry]:
    """Return the entries of an open torch archive, without the archive's own folder name.

    Raises:
        IncompleteFileError: if the directory at the end of the file is missing.
        CorruptCheckpointError: for compressed, encrypted, overlapping or doubled entries, for more
            than 100,000 of them, and for a directory that contradicts the file.
        UnsafeCheckpointError: for a TorchScript program.
    """
    name, found = path.name, file_size(handle)
    count, size, offset = find_directory(name, handle, found)
    if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise damaged(name, f"the archive lists {count} entries, the limit is {MAX_ENTRIES}")
    handle.seek(offset)
    directory = handle.read(size)
    entries: dict[str, ArchiveEntry] = {}
    position = 0
    for _ in range(count):
        entry, position = parse_entry(name, directory, position)
        if entry.name in entries:
            raise damaged(name, f"the archive holds {shown(entry.name)} twice")
        entries[entry.name] = entry
    if sum(entry.num_bytes for entry in entries.values()) > found:
        raise damaged(name, "the archive's entries add up to more than the file")
    return strip_folder(name, locate(name, handle, entries, offset))


def find_directory(name: str, handle: BinaryIO, found: int) -> tuple[int, int, int]:
    """Return the entry count, byte size and offset of the archive's directory."""
    tail_start = max(0, found - MAX_COMMENT - END.size)
    handle.seek(tail_start)
    tail = handle.read()
    mark = tail.rfind(END_MARK)
    if mark < 0 or len(tail) - mark < END.size:
        raise incomplete(name, found, found + END.size, at_least=True)
    _, disk, _, _, count, size, offset, comment = END.unpack_from(tail, mark)
    end = tail_start + mark
    if mark + END.size + comment > len(tail):
        raise incomplete(name, found, end + END.size + comment)
    if count == 0xFFFF or size == 0xFFFFFFFF or offset == 0xFFFFFFFF:
        count, size, offset, end = find_directory64(name, handle, end)
    if disk not in (0, 0xFFFF) or offset + size > end:
        raise damaged(name, "the archive's directory lies outside the file")
    return count, size, offset


def find_directory64(name: str, handle: BinaryIO, end: int) -> tuple[int, int, int, int]:
    """Return count, size, offset and end of the directory of a zip64 archive."""
    handle.seek(max(0, end - LOCATOR.size))
    raw = handle.read(LOCATOR.size)
    if len(raw) < LOCATOR.size or not raw.startswith(LOCATOR_MARK):
        raise damaged(name, "the archive's directory cannot be found")
    position = LOCATOR.unpack(raw)[2]
    if position + END64.size > end:
        raise damaged(name, "the archive's directory cannot be found")
    handle.seek(position)
    raw = handle.read(END64.size)
    if not raw.startswith(END64_MARK):
        raise damaged(name, "the archive's directory cannot be found")
    fields = END64.unpack(raw)
    return fields[7], fields[8], fields[9], position


def parse_entry(name: str, directory: bytes, position: int) -> tuple[ArchiveEntry, int]:
    """Return the entry at `position` of the directory, and where the next one starts.

    The entry's `offset` is still that of its local header.
    """
    if len(directory) - position < ENTRY.size:
        raise damaged(name, "the archive's directory is cut short")
    fields = ENTRY.unpack_from(directory, position)
    if fields[0] != b"PK\x01\x02":
        raise damaged(name, "the archive's directory is not readable")
    flags, method, checksum = fields[3], fields[4], fields[7]
    packed, size, offset = fields[8], fields[9], fields[16]
    name_end = position + ENTRY.size + fields[10]
    extra_end = name_end + fields[11]
    after = extra_end + fields[12]
    if after > len(directory):
        raise damaged(name, "the archive's directory is cut short")
    try:
        entry_name = directory[position + ENTRY.size : name_end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(name, "the archive has an entry whose name is not text") from error
    size, packed, offset = widen(name, directory[name_end:extra_end], size, packed, offset)
    if method or flags & 1 or packed != size:
        raise damaged(
            name,
            f"its entry {shown(entry_name)} is compressed ({size_text(packed)} for "
            f"{size_text(size)}), which PyTorch never writes",
        )
    entry = ArchiveEntry(name=entry_name, offset=offset, num_bytes=size, checksum=checksum)
    return entry, after


def widen(name: str, extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the sizes and offset that did not fit 32 bits by those of the zip64 field."""
    values: list[int] = []
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        content = extra[position + 4 : position + 4 + length]
        if kind == ZIP64_FIELD:
            values = [number for (number,) in struct.iter_unpack("<Q", content[: length // 8 * 8])]
        position += 4 + length
    wide: list[int] = []
    for value in (size, packed, offset):
        if value != 0xFFFFFFFF:
            wide.append(value)
        elif values:
            wide.append(values.pop(0))
        else:
            raise damaged(name, "the archive lacks the size of a large entry")
    return wide[0], wide[1], wide[2]


def locate(
    name: str, handle: BinaryIO, entries: dict[str, ArchiveEntry], limit: int
) -> dict[str, ArchiveEntry]:
    """Replace each local header's offset by that of the data, all inside the file and apart."""
    located: dict[str, ArchiveEntry] = {}
    previous = 0
    for entry in sorted(entries.values(), key=lambda item: item.offset):
        handle.seek(min(entry.offset, limit))
        raw = handle.read(LOCAL.size)
        if len(raw) < LOCAL.size or not raw.startswith(b"PK\x03\x04"):
            raise damaged(
                name, f"the archive's entry {shown(entry.name)} is not where it should be"
            )
        fields = LOCAL.unpack(raw)
        start = entry.offset + LOCAL.size + fields[9] + fields[10]
        local_name = handle.read(fields[9])
        if local_name != entry.name.encode() or fields[2] & 1 or fields[3]:
            raise damaged(name, f"the archive describes {shown(entry.name)} in two ways")
        if entry.offset < previous or start + entry.num_bytes > limit:
            raise damaged(name, f"the archive's entry {shown(entry.name)} overlaps another")
        previous = start + entry.num_bytes
        located[entry.name] = ArchiveEntry(
            name=entry.name, offset=start, num_bytes=entry.num_bytes, checksum=entry.checksum
        )
    return located


def strip_folder(name: str, entries: dict[str, ArchiveEntry]) -> dict[str, ArchiveEntry]:
    """Return the entries by their name inside the archive's one folder."""
    pickles = [key for key in entries if key.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise damaged(name, "it is a zip archive without PyTorch weights inside")
    folder = pickles[0].removesuffix("data.pkl")
    inside = {key.removeprefix(folder): value for key, value in entries.items()}
    programs = [key for key in inside if key == "constants.pkl" or key.startswith("code/")]
    if programs:
        raise UnsafeCheckpointError(
            f"{name} is a TorchScript program, which is code and not weights, so it was not "
            "opened. Use a .safetensors copy."
        )
    return inside


def verify_checksums(path: Path, handle: BinaryIO, entries: Mapping[str, ArchiveEntry]) -> None:
    """Compare every entry's bytes with the CRC-32 in the directory; zero means none was kept.

    Raises:
        CorruptCheckpointError: naming the first entry that differs.
    """
    for entry in entries.values():
        if not entry.checksum:
            continue
        handle.seek(entry.offset)
        value, left = 0, entry.num_bytes
        while left > 0:
            chunk = handle.read(min(CHUNK, left))
            if not chunk:
                raise incomplete(path.name, file_size(handle), entry.offset + entry.num_bytes)
            value = zlib.crc32(chunk, value)
            left -= len(chunk)
        if value != entry.checksum:
            raise damaged(path.name, f"the checksum of its entry {shown(entry.name)} does not fit")
