"""The list of verified files: what it spares, what it never spares, and where there is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes

from latte_core.checkpoint import write_safetensors
from latte_core.checkpoint.reading import reader, verified
from latte_core.checkpoint.reading.reader import read_tensors
from latte_core.checkpoint.reading.verified import LIST_NAME, VerifiedList
from latte_core.errors import CorruptCheckpointError, UnsafeCheckpointError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, in which files of any size and age are listed."""
    monkeypatch.setenv("LATTE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "LISTED_BYTES", 0)
    monkeypatch.setattr(verified, "SETTLED_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were all compared, once for each time."""
    names: list[str] = []

    def heard(function: Any) -> Any:
        def call(path: Path, *more: Any) -> None:
            names.append(path.name)
            function(path, *more)

        return call

    for name in ("verify_checksums", "verify_digest"):
        monkeypatch.setattr(reader, name, heard(getattr(reader, name)))
    return names


def write(path: Path, value: float = 1.0) -> Path:
    tensors = {"w": torch.full((100,), value)}
    if path.suffix == ".pt":
        path.write_bytes(torch_bytes(tensors))
    else:
        write_safetensors(path, tensors)
    return path


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_file_is_verified_once_for_all_processes(
    tmp_path: Path, cache: Path, work: list[str], name: str
) -> None:
    path = write(tmp_path / name)
    first, second = read_tensors(path), read_tensors(path)
    assert work == [name]
    assert torch.equal(first.tensors["w"], second.tensors["w"])
    assert [one.name for one in cache.iterdir()] == [LIST_NAME]


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_r09_file_that_takes_the_place_of_a_listed_one_is_verified(
    tmp_path: Path, cache: Path, name: str
) -> None:
    path = write(tmp_path / name)
    read_tensors(path)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(100).numpy().tobytes()) + 1] ^= 1
    other = tmp_path / f"other-{name}"
    other.write_bytes(bytes(data))
    other.replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.is_dir()
    with pytest.raises(CorruptCheckpointError):
        read_tensors(path)


def test_file_that_changed_a_moment_ago_is_not_listed(
    tmp_path: Path, cache: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "SETTLED_NS", 10**12)
    path = write(tmp_path / "w.pt")
    read_tensors(path)
    read_tensors(path)
    assert work == ["w.pt", "w.pt"]
    assert not cache.exists()


def test_small_file_leaves_the_cache_folder_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "LISTED_BYTES", 10_000)
    read_tensors(write(tmp_path / "w.pt"))
    assert not cache.exists()


@pytest.mark.parametrize(
    "damage",
    [b"", b'{"files": ["', b'{"files": 3}', b"[1]", b"\xff\xfe", b"[" * 100_000, b" " * 2**19],
    ids=["empty", "cut", "number", "list", "binary", "deep", "large"],
)
def test_damaged_list_is_no_list_and_is_replaced(
    tmp_path: Path, cache: Path, work: list[str], damage: bytes
) -> None:
    cache.mkdir()
    (cache / LIST_NAME).write_bytes(damage)
    path = write(tmp_path / "w.pt")
    read_tensors(path)
    read_tensors(path)
    assert work == ["w.pt"]
    assert len(json.loads((cache / LIST_NAME).read_text())["files"]) == 1


def test_there_is_no_list_where_none_can_be_written(
    tmp_path: Path, cache: Path, work: list[str]
) -> None:
    cache.touch()
    path = write(tmp_path / "w.pt")
    read_tensors(path)
    read_tensors(path)
    assert work == ["w.pt", "w.pt"]


def test_list_keeps_the_files_noted_last(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MOST_LISTED", 3)
    noted = VerifiedList(cache / LIST_NAME)
    for name in ("a", "b", "c", "a", "d"):
        noted.remember(name)
    assert [noted.knows(name) for name in "abcd"] == [True, False, True, True]


class Imports:
    """Asks to import a function when it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, ("1",)


def test_r01_listed_pickle_that_would_import_something_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes({"w": Imports()}))
    monkeypatch.setattr(VerifiedList, "knows", lambda *_: True)
    with pytest.raises(UnsafeCheckpointError, match="eval"):
        read_tensors(path)


def test_r09_listed_file_with_a_number_that_is_none_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VerifiedList, "knows", lambda *_: True)
    with pytest.raises(CorruptCheckpointError, match="NaN or Inf"):
        read_tensors(write(tmp_path / "w.pt", float("nan")))
