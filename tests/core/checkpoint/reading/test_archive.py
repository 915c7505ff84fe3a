"""The zip directory of a PyTorch file is believed in nothing."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from latte_test_support.malformed import torch_bytes

from latte_core.checkpoint import read_header, read_tensors
from latte_core.checkpoint.reading.archive import ArchiveEntry, read_archive, verify_checksums
from latte_core.errors import CorruptCheckpointError

FIRST_ENTRY = b"PK\x01\x02"
END = b"PK\x05\x06"


def plain_archive(names: tuple[str, ...] = ("a/data.pkl", "a/data/0", "a/version")) -> bytearray:
    """Return a small stored archive without 64-bit fields."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"12345678")
    return bytearray(target.getvalue())


def patched(place: bytes, offset: int, form: str, *values: int) -> bytes:
    """Return the archive with numbers written `offset` bytes behind the first `place`."""
    data = plain_archive()
    struct.pack_into(form, data, data.index(place) + offset, *values)
    return bytes(data)


def entries_of(path: Path, data: bytes) -> dict[str, ArchiveEntry]:
    path.write_bytes(data)
    with path.open("rb") as handle:
        return read_archive(path, handle)


def test_entries_are_found_where_their_bytes_are(tmp_path: Path) -> None:
    data = bytes(plain_archive())
    entries = entries_of(tmp_path / "w.pt", data)
    assert set(entries) == {"data.pkl", "data/0", "version"}
    for entry in entries.values():
        assert data[entry.offset : entry.offset + entry.num_bytes] == b"12345678"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (patched(FIRST_ENTRY, 10, "<H", 8), "compressed"),
        (patched(FIRST_ENTRY, 8, "<H", 1), "compressed"),
        (patched(FIRST_ENTRY, 24, "<L", 9), "compressed"),
        (patched(FIRST_ENTRY, 20, "<2L", 2**20, 2**20), "add up to more"),
        (patched(FIRST_ENTRY, 20, "<2L", 60, 60), "overlaps"),
        (patched(FIRST_ENTRY, 20, "<2L", 0xFFFFFFFF, 0xFFFFFFFF), "lacks the size"),
        (patched(FIRST_ENTRY, 28, "<H", 60_000), "cut short"),
        (patched(FIRST_ENTRY, 42, "<L", 3), "not where it should be"),
        (patched(FIRST_ENTRY, 42, "<L", 2**31), "not where it should be"),
        (patched(FIRST_ENTRY, 46, "<B", 255), "name is not text"),
        (patched(FIRST_ENTRY, 46, "<B", 98), "in two ways"),
        (patched(FIRST_ENTRY, 0, "<L", 0), "not readable"),
        (patched(END, 16, "<L", 2**20), "outside the file"),
        (patched(END, 4, "<H", 7), "outside the file"),
        (patched(END, 8, "<2H", 9, 9), "cut short"),
        (patched(END, 8, "<2H", 0xFFFF, 0xFFFF), "cannot be found"),
        (patched(b"PK\x03\x04", 8, "<H", 8), "in two ways"),
        (bytes(plain_archive(("a/data.pkl", "b/data.pkl"))), "without PyTorch weights"),
    ],
)
def test_directory_that_contradicts_the_file_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    with pytest.raises(CorruptCheckpointError, match=words):
        entries_of(tmp_path / "w.pt", data)


def test_comment_that_runs_past_the_end_is_a_cut_off_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match="is incomplete"):
        entries_of(tmp_path / "w.pt", patched(END, 20, "<H", 5))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_entry_is_refused(tmp_path: Path) -> None:
    data = bytes(plain_archive(("a/data.pkl", "a/data.pkl")))
    with pytest.raises(CorruptCheckpointError, match="twice"):
        entries_of(tmp_path / "w.pt", data)


def torch_archive() -> bytearray:
    """Return what torch writes: with 64-bit directory ends."""
    data = bytearray(torch_bytes({"w": torch.ones(5)}))
    place = data.rindex(END)
    data[place + 8 : place + 20] = b"\xff" * 12  # only the 64-bit fields say it
    return data


def test_large_archive_is_read_by_its_64_bit_fields(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(bytes(torch_archive()))
    assert set(read_header(path).tensors) == {"w"}


@pytest.mark.parametrize(("mark", "offset"), [(b"PK\x06\x07", 0), (b"PK\x06\x06", 0)])
def test_large_archive_without_its_64_bit_directory_is_refused(
    tmp_path: Path, mark: bytes, offset: int
) -> None:
    data = torch_archive()
    data[data.rindex(mark) + offset] ^= 1
    with pytest.raises(CorruptCheckpointError, match="cannot be found"):
        entries_of(tmp_path / "w.pt", bytes(data))


def test_large_archive_whose_64_bit_directory_lies_behind_the_end_is_refused(
    tmp_path: Path,
) -> None:
    data = torch_archive()
    struct.pack_into("<Q", data, data.rindex(b"PK\x06\x07") + 8, 2**40)
    with pytest.raises(CorruptCheckpointError, match="cannot be found"):
        entries_of(tmp_path / "w.pt", bytes(data))


def test_entry_with_64_bit_sizes_is_read(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/data.pkl", b"12345678")
        with archive.open(zipfile.ZipInfo("a/data/0"), "w", force_zip64=True) as large:
            large.write(b"1234")
    data = bytearray(target.getvalue())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        offset = archive.infolist()[1].header_offset
    # give the second directory entry its sizes and place in a 64-bit field
    place = data.rindex(FIRST_ENTRY)
    extra = struct.pack("<2H3Q", 1, 24, 4, 4, offset) + struct.pack("<2H", 9, 0)
    name_end = place + 46 + len("a/data/0")
    data[name_end:name_end] = extra
    struct.pack_into("<2L", data, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, place + 30, len(extra))
    struct.pack_into("<L", data, place + 42, 0xFFFFFFFF)
    end = data.rindex(END)
    (size,) = struct.unpack_from("<L", data, end + 12)
    struct.pack_into("<L", data, end + 12, size + len(extra))
    entry = entries_of(tmp_path / "w.pt", bytes(data))["data/0"]
    assert data[entry.offset : entry.offset + entry.num_bytes] == b"1234"


def test_file_that_shrinks_while_its_checksums_are_taken_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    entries = entries_of(path, bytes(plain_archive()))
    path.write_bytes(path.read_bytes()[:50])
    with path.open("rb") as handle, pytest.raises(CorruptCheckpointError, match="incomplete"):
        verify_checksums(path, handle, entries)


def test_giant_table_of_contents_is_refused(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/data.pkl", bytes(16 * 2**20 + 1))
    path = tmp_path / "w.pt"
    path.write_bytes(target.getvalue())
    with pytest.raises(CorruptCheckpointError, match="table of contents has 16"):
        read_tensors(path)
