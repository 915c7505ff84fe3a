"""Files we read that were made to do harm: rows R01-R04 of docs/faults.md."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import (
    Payload,
    odd_tensors,
    pickle_bytes,
    repack,
    small_safetensors,
    torch_bytes,
    zip_bomb,
)
from latte_test_support.whole_files import WEIGHTS, put, whole_file

from latte_core.checkpoint import identify, load_transformer, read_header, read_tensors
from latte_core.errors import CorruptCheckpointError, UnsafeCheckpointError

ROOT = Path(__file__).resolve().parents[2]


def open_fully(path: Path) -> None:
    """Do everything that a person may do with a file of unknown origin."""
    identify(path)
    read_tensors(path)


MEASURE = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from latte_core.checkpoint import read_tensors
from latte_core.errors import CheckpointError
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
refused = 0
for path in sys.argv[2:]:
    try:
        read_tensors(path)
    except CheckpointError:
        refused += 1
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(refused, after - before, time.process_time() - start)
"""


def measure(*paths: Path) -> tuple[int, float, float]:
    """Read files in a fresh process: how many were refused, growth in MB, seconds of work."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", MEASURE, str(ROOT), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    refused, kilobytes, seconds = done.stdout.split()
    return int(refused), int(kilobytes) / 1000, float(seconds)


# R01


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("action", [open_fully, identify, read_header, load_transformer])
def test_r01_pickle_with_code_is_refused_and_runs_nothing(
    tmp_path: Path, form: str, action: Any
) -> None:
    marker = tmp_path / "marker"
    content = {"state_dict": {**WEIGHTS, "evil": Payload(marker)}}
    if form == "plain":
        data = pickle_bytes({"evil": Payload(marker)})
    else:
        data = torch_bytes(content, is_zip=form == "zip")
    path = put(tmp_path, "model.pt", data)
    with pytest.raises(UnsafeCheckpointError) as caught:
        action(path)
    assert not marker.exists()
    assert "builtins.eval" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert ".safetensors" in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_r01_every_pickle_protocol_names_what_it_would_import(
    tmp_path: Path, protocol: int
) -> None:
    path = put(tmp_path, "model.ckpt", pickle_bytes(Payload(tmp_path / "marker"), protocol))
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.eval"):
        open_fully(path)
    assert not (tmp_path / "marker").exists()


def test_r01_payload_renamed_to_safetensors_is_still_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "m.safetensors", torch_bytes({"x": Payload(tmp_path / "marker")}))
    with pytest.raises(UnsafeCheckpointError):
        open_fully(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("instructions", "wanted"),
    [
        (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.", "os.system"),
        (b"\x80\x02(X\x01\x00\x00\x00aios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02\x82\x05N0N0N0.", "copyreg.extension_5"),
        (b"\x80\x02cos\nsystem\n" + b"\xff", "os.system"),
    ],
)
def test_r01_every_way_to_import_is_seen(tmp_path: Path, instructions: bytes, wanted: str) -> None:
    path = put(tmp_path, "m.pt", instructions)
    with pytest.raises(UnsafeCheckpointError, match=wanted):
        open_fully(path)


def test_r01_torchscript_program_is_refused(tmp_path: Path) -> None:
    data = repack(torch_bytes({"w": torch.ones(2)}), code__main_dot_py=b"print(1)")
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        open_fully(put(tmp_path, "m.pt", data))


# R02


def test_r02_old_torch_opens_no_pickle_but_still_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = put(tmp_path, "w.pt", whole_file("zip"))
    plain = put(tmp_path, "w.safetensors", small_safetensors())
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(UnsafeCheckpointError, match=r"2\.5\.1.*2\.6"):
        read_tensors(pickled)
    assert set(read_tensors(plain).tensors) == {"first", "second", "third"}


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "2.10.0a0+gitabc", "3.0.0.dev2026"])
def test_r02_newer_torch_opens_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    path = put(tmp_path, "w.pt", whole_file("zip"))
    monkeypatch.setattr(torch, "__version__", version)
    assert set(read_tensors(path).tensors) == {"w", "b"}


# R03


@pytest.fixture
def odd_files(tmp_path: Path) -> list[Path]:
    """Write every tensor that is no ordinary one, in both PyTorch formats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns when such tensors are made
        tensors = odd_tensors()
        return [
            put(tmp_path, f"{number}-{is_zip}.pt", torch_bytes({"w": tensor}, is_zip=is_zip))
            for number, tensor in enumerate(tensors.values())
            for is_zip in (True, False)
        ]


def test_r03_tensors_that_are_not_what_they_claim_are_refused(odd_files: list[Path]) -> None:
    for path in odd_files:
        with pytest.raises(CorruptCheckpointError):
            open_fully(path)


def test_r03_refusing_them_takes_no_memory(odd_files: list[Path]) -> None:
    refused, megabytes, _ = measure(*odd_files)
    assert refused == len(odd_files)
    assert megabytes < 100


def test_r03_the_claim_and_what_is_stored_are_told(tmp_path: Path) -> None:
    tensor = torch.ones(1).expand(200_000, 200_000)
    path = put(tmp_path, "w.pt", torch_bytes({"w": tensor}))
    assert path.stat().st_size < 2500
    with pytest.raises(CorruptCheckpointError, match="tensor w claims 160 GB but stores 4 bytes"):
        open_fully(path)


def test_r03_tensors_sharing_their_bytes_cannot_grow_without_end(tmp_path: Path) -> None:
    shared = torch.zeros(1000)
    path = put(tmp_path, "w.pt", torch_bytes({f"w{n}": shared for n in range(50)}))
    with pytest.raises(CorruptCheckpointError, match="claim"):
        open_fully(path)


def test_r03_views_and_tied_weights_are_ordinary(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    weights = {"whole": base, "part": base[4:10], "turned": base.reshape(4, 6).t()}
    path = put(tmp_path, "w.pt", torch_bytes(weights))
    found = read_tensors(path).tensors
    assert all(torch.equal(found[key], value) for key, value in weights.items())


# R04


def test_r04_compressed_archive_is_refused_at_once_and_without_memory(tmp_path: Path) -> None:
    path = put(tmp_path, "bomb.pt", zip_bomb())
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CorruptCheckpointError, match="compressed"):
        open_fully(path)
    refused, megabytes, seconds = measure(path)
    assert refused == 1
    assert megabytes < 50
    assert seconds < 1


def test_r04_archive_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    data = bytearray(torch_bytes(WEIGHTS))
    place = data.rindex(b"PK\x06\x06")  # torch always writes the 64-bit directory end
    data[place + 24 : place + 40] = struct.pack("<2Q", 100_001, 100_001)
    end = data.rindex(b"PK\x05\x06")
    data[end + 8 : end + 12] = b"\xff" * 4
    path = put(tmp_path, "many.pt", bytes(data))
    start = time.process_time()
    with pytest.raises(CorruptCheckpointError, match="100001 entries"):
        read_header(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_dot_pkl": None}, "weights"),
        ({"data__0": b"123"}, "claims"),
        ({"data__0": None}, "claims"),
        ({"data_dot_pkl": b"\x80\x02garbage"}, "table of contents"),
        ({"data_dot_pkl": b"\x80\x02}q\x00."}, "no tensors"),
    ],
)
def test_r04_archive_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, bytes | None], words: str
) -> None:
    path = put(tmp_path, "w.pt", repack(torch_bytes({"w": torch.ones(5)}), **changes))
    with pytest.raises(CorruptCheckpointError, match=words):
        read_tensors(path)
