"""Writing safetensors: whole, readable, with a digest."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from latte_core.checkpoint import read_tensors, write_safetensors
from latte_core.checkpoint.writing import writer as writer_module
from latte_core.errors import CheckpointError, InvalidInputError

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def sample(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(12).reshape(3, 4).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_written_tensors_are_read_back_by_the_library_and_by_us(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {
        "plain": sample(dtype),
        "turned": sample(dtype).t(),
        "part": sample(dtype)[1:, ::2],
        "number": sample(dtype)[1, 1],
        "empty": sample(dtype)[:0],
        "odd": torch.ones(3, dtype=torch.uint8),
    }
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tensors, {"note": "x"})
    for found in (load_file(path), read_tensors(path).tensors):
        assert set(found) == set(tensors)
        for key, value in tensors.items():
            assert found[key].dtype == value.dtype
            assert found[key].shape == value.shape
            assert torch.equal(
                found[key].view(torch.uint8) if value.dim() else found[key],
                value.contiguous().view(torch.uint8) if value.dim() else value,
            )


def test_metadata_holds_the_format_and_the_digest_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"b": torch.ones(2), "a": torch.zeros(3)}, {"note": "x"})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    assert metadata == {
        "format": "pt",
        "note": "x",
        "latte_sha256": hashlib.sha256(data[start:]).hexdigest(),
    }


def test_same_tensors_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3, dtype=torch.float16)}
    write_safetensors(tmp_path / "1.safetensors", tensors)
    write_safetensors(tmp_path / "2.safetensors", dict(reversed(tensors.items())))
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="permission bits as on Unix")
def test_file_has_the_permissions_of_an_ordinary_new_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "w.safetensors", {"w": torch.ones(1)})
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("w.safetensors", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_failed_write_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"w": torch.ones(1)})
    before = path.read_bytes()

    def fail(handle: Any, header: bytes, tensors: Any) -> None:
        handle.write(header)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer_module, "write_all", fail)
    words = "disk is full" if number == errno.ENOSPC else "Permission denied"
    with pytest.raises(CheckpointError, match=f"w.safetensors was not written: .*{words}"):
        write_safetensors(path, {"w": torch.zeros(9)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no tensors"),
        ({f"t{n}": torch.empty(0) for n in range(20_001)}, "too many"),
        ({"w": torch.empty(2, device="meta")}, "cannot be written"),
        ({"w": torch.eye(2).to_sparse()}, "cannot be written"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "cannot be written"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        write_safetensors(tmp_path / "w.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


def test_what_our_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(InvalidInputError, match="metadata entry note"):
        write_safetensors(path, {"w": torch.ones(1)}, {"note": "x" * 5_000_000})
    many = {f"{'n' * 1000}{number}": torch.empty(0) for number in range(17_000)}
    with pytest.raises(InvalidInputError, match="header"):
        write_safetensors(path, many)
