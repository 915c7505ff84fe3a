"""Files we read that are damaged, cut or no weights: rows R05-R09 of docs/faults.md."""

from __future__ import annotations

import logging
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from latte_test_support.malformed import (
    bad_headers,
    entry,
    safetensors_bytes,
    small_safetensors,
    torch_bytes,
)
from latte_test_support.whole_files import WEIGHTS, put, whole_file

from latte_core.checkpoint import (
    Family,
    FileKind,
    VerifiedFiles,
    identify,
    load_transformer,
    read_header,
    read_tensors,
    sniff,
    write_safetensors,
)
from latte_core.errors import CheckpointError, CorruptCheckpointError

RENAMED = [("safetensors", "weights.pt"), ("zip", "w.safetensors"), ("legacy", "w.safetensors")]


# R05


@pytest.mark.parametrize("case", bad_headers())
def test_r05_lying_header_is_refused_at_once(tmp_path: Path, case: str) -> None:
    path = put(tmp_path, "w.safetensors", bad_headers()[case])
    start = time.process_time()
    with pytest.raises(CorruptCheckpointError, match=r"w\.safetensors"):
        read_tensors(path)
    with pytest.raises(CorruptCheckpointError):
        read_header(path)
    assert time.process_time() - start < 1


def test_r05_names_in_messages_are_short_and_printable(tmp_path: Path) -> None:
    header = {"\x1b[31m" + "n" * 5000: entry([3], 0, 8)}
    path = put(tmp_path, "w.safetensors", safetensors_bytes(header, bytes(8)))
    with pytest.raises(CorruptCheckpointError) as caught:
        read_tensors(path)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("length", [65_000, 2**22 - 1])
def test_r05_metadata_up_to_the_limit_is_read(tmp_path: Path, length: int) -> None:
    path = put(tmp_path, "w.safetensors", small_safetensors({"k": "x" * length}))
    assert len(read_tensors(path).metadata["k"]) == length


# R06


@st.composite
def damage(draw: st.DrawFn, form: str) -> bytes:
    """Draw a valid file with one to three random injuries."""
    data = bytearray(whole_file(form))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "duplicate", "end"]))
        if kind == "flip" and data:
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "duplicate":
            data[place:place] = data[place : place + length]
        else:
            del data[place:]
    return bytes(data)


def survive(folder: Path, data: bytes) -> None:
    """Open damaged bytes: they load, or end in one of our errors."""
    path = put(folder, "damaged.bin", data)
    for action in (identify, read_tensors, load_transformer):
        try:
            action(path)
        except CheckpointError as error:
            assert str(error)


SETTINGS: dict[str, Any] = {
    "deadline": 2000,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_r06_random_damage_ends_in_our_errors_only(tmp_path: Path, form: str) -> None:
    @settings(max_examples=200, **SETTINGS)
    @given(damage(form))
    def attempt(data: bytes) -> None:
        survive(tmp_path, data)

    attempt()


@pytest.mark.stress
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_r06_two_thousand_damaged_files_end_in_our_errors_only(tmp_path: Path, form: str) -> None:
    @settings(max_examples=2000, **{**SETTINGS, "derandomize": False})
    @given(damage(form))
    def attempt(data: bytes) -> None:
        survive(tmp_path, data)

    attempt()


# R07


def cuts(form: str) -> list[int]:
    """Return lengths at which to cut a file: boundaries, in the header, in the data, at the end."""
    size = len(whole_file(form))
    return sorted({0, 1, 7, 8, 9, 20, size // 3, size // 2, size - 20, size - 2, size - 1})


@pytest.mark.parametrize(
    ("form", "length"), [(form, n) for form in ("safetensors", "zip", "legacy") for n in cuts(form)]
)
def test_r07_cut_file_is_told_with_sizes_and_what_to_do(
    tmp_path: Path, form: str, length: int
) -> None:
    path = put(tmp_path, "part.safetensors", whole_file(form)[:length])
    with pytest.raises(CorruptCheckpointError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"part.safetensors is incomplete: it has {length} bytes, expected ")
    assert "download it again" in message
    found = identify(path)
    assert not found.is_whole
    assert "ownload it again" in found.sentence


def test_r07_expected_size_of_a_cut_safetensors_file_is_exact(tmp_path: Path) -> None:
    whole = whole_file("safetensors")
    path = put(tmp_path, "w.safetensors", whole[:-1])
    with pytest.raises(CorruptCheckpointError, match=f"expected {len(whole)}\\."):
        read_tensors(path)


# R08


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", FileKind.HTML, "HTML page"),
        (b"\xef\xbb\xbf  <html>\nlogin</html>", FileKind.HTML, "download probably failed"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            FileKind.LFS_POINTER,
            "git lfs pull",
        ),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), FileKind.GGUF, "GGUF"),
        (b'{"weight_map": {"a": "b"}}', FileKind.JSON, "JSON"),
        (b"Entry not found, sorry.", FileKind.TEXT, "plain text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(64)), FileKind.OTHER, "unknown kind"),
        (b"PK\x05\x06" + bytes(18), FileKind.ZIP, "zip archive"),
    ],
)
def test_r08_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, kind: FileKind, words: str
) -> None:
    path = put(tmp_path, "latte.safetensors", content)
    assert sniff(path) is kind
    with pytest.raises(CorruptCheckpointError, match=words):
        read_tensors(path)
    with pytest.raises(CheckpointError, match=words):
        load_transformer(path)
    found = identify(path)
    assert found.family is Family.NOT_WEIGHTS
    assert words in found.sentence


def test_r08_zip_of_pictures_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "photos.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.png", b"12345")
    with pytest.raises(CorruptCheckpointError, match="zip archive"):
        read_tensors(path)


@pytest.mark.parametrize(("form", "name"), RENAMED)
def test_r08_renamed_file_loads_with_a_notice(
    tmp_path: Path, form: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path, name, whole_file(form))
    with caplog.at_level(logging.WARNING, "latte"):
        assert read_tensors(path).tensors
    assert f"{name} is a" in caplog.text
    assert "in spite of its name" in caplog.text


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_r08_usual_names_give_no_notice(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = "w.safetensors" if form == "safetensors" else "w.pt"
    with caplog.at_level(logging.WARNING, "latte"):
        read_tensors(put(tmp_path, name, whole_file(form)))
    assert caplog.text == ""


def test_r08_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="folder without weights"):
        load_transformer(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes as on Unix")
@pytest.mark.parametrize("action", [sniff, read_header, read_tensors, identify, load_transformer])
def test_r08_links_to_nothing_devices_and_pipes_are_told(tmp_path: Path, action: Any) -> None:
    link, pipe = tmp_path / "link.pt", tmp_path / "pipe.pt"
    link.symlink_to(tmp_path / "gone.pt")
    os.mkfifo(pipe)
    for path, words in ((link, "link to a file"), (pipe, "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(CheckpointError, match=words):
            action(path)


def test_r08_missing_file_and_impossible_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt was not found"):
        read_tensors(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "nul\0.pt")


# R09


def test_r09_flipped_byte_in_our_own_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    write_safetensors(path, {"w": torch.ones(100)})
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptCheckpointError, match="SHA-256"):
        read_tensors(path)


def test_r09_flipped_byte_in_a_pytorch_file_is_found(tmp_path: Path) -> None:
    data = bytearray(torch_bytes({"w": torch.ones(100)}))
    place = data.index(torch.ones(100).numpy().tobytes())
    data[place + 40] ^= 1
    path = put(tmp_path, "w.pt", bytes(data))
    assert torch.load(path, weights_only=True)["w"].shape == (100,)  # torch itself sees nothing
    with pytest.raises(CorruptCheckpointError, match="checksum"):
        read_tensors(path)


def test_r09_pytorch_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = torch_bytes(WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    assert set(read_tensors(put(tmp_path, "w.pt", data)).tensors) == {"w", "b"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]
)
@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_r09_weight_that_is_not_finite_is_named(
    tmp_path: Path, value: float, dtype: torch.dtype, form: str
) -> None:
    bad = torch.ones(41, 5)
    bad[27, 3] = value
    tensors = {"good": torch.ones(2), "layer.7.weight": bad.to(dtype)}
    path = tmp_path / "w.pt"
    if form == "zip":
        path.write_bytes(torch_bytes(tensors))
    else:
        write_safetensors(path.with_suffix(".safetensors"), tensors)
        path = path.with_suffix(".safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"layer\.7\.weight contains NaN or Inf"):
        read_tensors(path)


def test_r09_digest_is_checked_once_per_file_for_a_caller_that_remembers(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    write_safetensors(path, {"w": torch.ones(100)})
    verified = VerifiedFiles()
    read_tensors(path, verified=verified)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read_tensors(path, verified=verified)  # same name, size and time: not hashed again
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(CorruptCheckpointError, match="SHA-256"):
        read_tensors(path, verified=verified)
