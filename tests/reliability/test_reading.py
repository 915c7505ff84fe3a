"""Files we read: rows R01-R15 of the fault list."""

from __future__ import annotations

import argparse
import json
import logging
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from latte_test_support.malformed import (
    FAMILY_NAMES,
    Payload,
    bad_headers,
    entry,
    odd_tensors,
    pickle_bytes,
    repack,
    safetensors_bytes,
    small_safetensors,
    torch_bytes,
    write_hollow,
    zip_bomb,
)
from latte_test_support.tiny_t2v import tiny_config, tiny_model, tiny_weights

from latte_core.checkpoint import (
    Family,
    FileKind,
    VerifiedFiles,
    convert,
    identify,
    load_transformer,
    read_header,
    read_tensors,
    require_family,
    sniff,
    write_safetensors,
)
from latte_core.checkpoint import reader as reader_module
from latte_core.checkpoint.layout import t2v_layout
from latte_core.config import LatteT2VConfig
from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    InvalidInputError,
    LatteError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    WeightMismatchError,
)

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
RENAMED = [("safetensors", "weights.pt"), ("zip", "w.safetensors"), ("legacy", "w.safetensors")]


def whole_file(form: str) -> bytes:
    """Return a small whole file of one of the three formats."""
    if form == "safetensors":
        return small_safetensors({"config": json.dumps(tiny_config()), "format": "pt"})
    return torch_bytes({"model": WEIGHTS, "step": 3}, is_zip=form == "zip")


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


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


# R10

LOADERS = {
    "Latte Model Loader": Family.LATTE_T2V,
    "Latte Text Encoder Loader": Family.T5_ENCODER,
    "Latte VAE Loader": Family.IMAGE_VAE,
    "Latte LoRA Loader": Family.LORA,
}


@pytest.fixture(scope="module")
def family_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """One full-size file per family whose data is a hole: reading it would take gigabytes."""
    folder = tmp_path_factory.mktemp("families")
    names = {**FAMILY_NAMES, "LATTE_T2V": t2v_layout(LatteT2VConfig())}
    return {
        Family[key]: write_hollow(folder / f"{key.lower()}.safetensors", shapes, {})
        for key, shapes in names.items()
    }


@pytest.mark.parametrize("key", [*FAMILY_NAMES, "LATTE_T2V"])
def test_r10_family_is_recognised_from_the_header_in_under_a_second(
    family_files: dict[Family, Path], key: str
) -> None:
    start = time.process_time()
    found = identify(family_files[Family[key]])
    assert time.process_time() - start < 1
    assert found.family is Family[key]
    assert found.is_whole


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("key", [*FAMILY_NAMES, "LATTE_T2V"])
def test_r10_wrong_model_in_a_loader_is_told_where_it_belongs(
    family_files: dict[Family, Path], key: str, loader: str
) -> None:
    family, path = Family[key], family_files[Family[key]]
    if family is LOADERS[loader]:
        require_family(path, LOADERS[loader], "this part of Latte")
        return
    start = time.process_time()
    with pytest.raises(UnknownArchitectureError) as caught:
        require_family(path, LOADERS[loader], "this part of Latte")
    assert time.process_time() - start < 1
    right = next((name for name, wanted in LOADERS.items() if wanted is family), "")
    assert path.name in str(caught.value)
    assert right in str(caught.value)


@pytest.mark.parametrize("key", FAMILY_NAMES)
def test_r10_transformer_loader_refuses_other_models_before_reading_them(
    family_files: dict[Family, Path], key: str
) -> None:
    start = time.process_time()
    with pytest.raises(UnknownArchitectureError) as caught:
        load_transformer(family_files[Family[key]])
    assert time.process_time() - start < 1
    assert f"This is {Family[key].value}" in str(caught.value)


def test_r10_sentence_for_a_text_encoder_is_the_promised_one(
    family_files: dict[Family, Path],
) -> None:
    found = identify(family_files[Family.T5_ENCODER])
    assert found.sentence == "This is a T5 encoder. Use Latte Text Encoder Loader."


# R11


def write_tiny(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    write_safetensors(path, weights, {"config": json.dumps(tiny_config())})
    return path


def test_r11_missing_extra_and_reshaped_weights_are_counted_and_named(tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["proj_out.bias"]
    weights["stray.weight"] = torch.ones(1)
    turned = "caption_projection.linear_1.weight"
    weights[turned] = weights[turned].t().contiguous()
    with pytest.raises(WeightMismatchError) as caught:
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    message = str(caught.value)
    assert "1 missing: proj_out.bias." in message
    assert "1 not expected: stray.weight." in message
    assert f"1 of another shape: {turned} is (24, 16) instead of (16, 24)." in message
    assert "Latte-1: 28 layers, width 1152" in message


def test_r11_only_five_names_of_a_kind_are_listed(tmp_path: Path) -> None:
    weights = tiny_weights()
    gone = [key for key in weights if ".ff." in key][:8]
    for key in gone:
        del weights[key]
    with pytest.raises(WeightMismatchError, match="8 missing: ") as caught:
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    assert sum(key in str(caught.value) for key in gone) == 5


def test_r11_every_parameter_is_read_from_the_file(tmp_path: Path) -> None:
    weights = tiny_weights(seed=3)
    weights["caption_projection.y_embedding"] = torch.randn(120, 24)
    model = load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    found = model.state_dict()
    assert set(found) == set(weights) - {"caption_projection.y_embedding"}
    assert all(torch.equal(found[key], weights[key]) for key in found)
    assert not any(value.is_meta for value in [*model.parameters(), *model.buffers()])


# R12


def test_r12_mixed_types_become_one_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tiny_weights()
    mixed = {
        key: value.half() if "attn" in key else value.to(torch.bfloat16)
        for key, value in weights.items()
    }
    path = write_tiny(tmp_path / "w.safetensors", mixed)
    with caplog.at_level(logging.INFO, "latte"):
        model = load_transformer(path, dtype=None)
    layers = {layer.weight.dtype for layer in model.modules() if hasattr(layer, "weight")}
    assert layers == {torch.float16} or layers == {torch.bfloat16}
    assert "mixes" in caplog.text
    assert str(layers.pop()) in caplog.text


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_r12_whole_number_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tiny_weights()
    weights["proj_out.weight"] = weights["proj_out.weight"].to(dtype)
    with pytest.raises(WeightMismatchError, match=r"proj_out\.weight holds torch\."):
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_r12_plain_fp8_is_unpacked(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {key: value.to(dtype) for key, value in tiny_weights().items()}
    model = load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    assert all(
        torch.equal(value, weights[key].float()) for key, value in model.state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_r12_types_that_cannot_compute_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights())
    with pytest.raises(InvalidInputError, match="cannot compute"):
        load_transformer(path, dtype=dtype)


# R13

CONTAINERS: dict[str, Any] = {
    "bare": lambda good, other: good,
    "model and ema": lambda good, other: {"model": other, "ema": good, "opt": {"state": {}}},
    "ema only": lambda good, other: {"ema": good},
    "model only": lambda good, other: {"model": good, "step": 7},
    "state_dict": lambda good, other: {"state_dict": good, "epoch": 1},
    "one unknown entry": lambda good, other: {"network": good},
    "ema is empty": lambda good, other: {"ema": None, "model": good},
    "Lightning": lambda good, other: {
        "state_dict": {
            **{f"model.{key}": value for key, value in other.items()},
            **{f"ema.{key}": value for key, value in good.items()},
            "vae.encoder.conv_in.weight": torch.ones(1),
        }
    },
    "nested": lambda good, other: {"model": {"state_dict": good}},
    "Namespace": lambda good, other: {
        "model": other,
        "ema": good,
        "args": argparse.Namespace(lr=1e-4, name="run"),
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_r13_every_container_gives_its_weights_and_averaged_ones_first(
    tmp_path: Path, container: str, is_zip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = tiny_weights(seed=1), tiny_weights(seed=2)
    path = put(tmp_path, "t2v.pt", torch_bytes(CONTAINERS[container](good, other), is_zip=is_zip))
    allowed = set(torch.serialization.get_safe_globals())
    with caplog.at_level(logging.INFO, "latte"):
        model = load_transformer(path, tiny_config())
    assert all(torch.equal(value, good[key]) for key, value in model.state_dict().items())
    assert set(torch.serialization.get_safe_globals()) == allowed
    has_both = container in ("model and ema", "ema only", "Lightning", "Namespace")
    assert ("averaged (EMA)" in caplog.text) == has_both


def test_r13_other_leftovers_are_refused_by_name(tmp_path: Path) -> None:
    content = {"model": tiny_weights(), "path": Path("runs")}
    with pytest.raises(UnsafeCheckpointError, match=r"pathlib\."):
        read_tensors(put(tmp_path, "w.pt", torch_bytes(content)))


@pytest.mark.parametrize("content", [{}, {"step": 3}, {"model": {}}, [1, 2], 5, {"a": {"b": 1}}])
def test_r13_container_without_tensors_is_told(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CorruptCheckpointError, match="no tensors"):
        read_tensors(put(tmp_path, "w.pt", torch_bytes(content)))


# R14

HOSTILE = [0, -1, 10**9, 1.5, "16", None, True, [2], float("inf")]
SETTINGS_NAMES = ["num_layers", "attention_head_dim", "patch_size", "caption_channels"]


@pytest.mark.parametrize("name", SETTINGS_NAMES)
@pytest.mark.parametrize("value", HOSTILE)
def test_r14_hostile_config_in_the_file_is_refused_at_once(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tiny_weights(), {"config": json.dumps(tiny_config(**{name: value}))})
    start = time.process_time()
    with pytest.raises(CheckpointError):
        load_transformer(path)
    identify(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("value", HOSTILE)
def test_r14_hostile_config_beside_the_file_or_given_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tiny_weights())
    bad = tiny_config(num_layers=value)
    with pytest.raises(LatteError):
        load_transformer(path, bad)
    (tmp_path / "config.json").write_text(json.dumps(bad))
    with pytest.raises(CheckpointError):
        load_transformer(path)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"num_layers": ' + "9" * 5000 + "}"])
def test_r14_config_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.safetensors"
    data = tiny_weights()
    write_safetensors(path, data, {"config": text[:60_000]})
    with pytest.raises(CorruptCheckpointError):
        load_transformer(path)
    write_safetensors(path, data)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        load_transformer(path)


# R15


@pytest.mark.skipif(os.name == "nt", reason="links as on Unix")
def test_r15_conversion_never_writes_over_its_source(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights())
    before = path.read_bytes()
    soft, hard = tmp_path / "soft.safetensors", tmp_path / "hard.safetensors"
    soft.symlink_to(path)
    hard.hardlink_to(path)
    roundabout = tmp_path / "nowhere" / ".." / "w.safetensors"
    (tmp_path / "nowhere").mkdir()
    for target in (path, soft, hard, roundabout):
        with pytest.raises(InvalidInputError, match="never overwritten"):
            convert(path, target)
    with pytest.raises(InvalidInputError, match="never overwritten"):
        convert(soft, path)
    assert path.read_bytes() == before
    assert soft.is_symlink()


def test_r15_file_that_vanishes_between_looking_and_reading_is_told(tmp_path: Path) -> None:
    for form in ("safetensors", "zip"):
        path = put(tmp_path, "w.bin", whole_file(form))
        assert sniff(path) in (FileKind.SAFETENSORS, FileKind.TORCH_ZIP)
        path.unlink()
        with pytest.raises(CheckpointError, match="not found"):
            read_tensors(path)


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_r15_file_that_vanishes_while_being_read_is_told(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "w.pt", whole_file(form))
    describe = reader_module.describe

    def describe_and_delete(*arguments: Any) -> Any:
        result = describe(*arguments)
        path.unlink()
        return result

    monkeypatch.setattr(reader_module, "describe", describe_and_delete)
    with pytest.raises(CheckpointError, match="vanished"):
        read_tensors(path)


def test_r15_model_stays_usable_after_its_file_is_deleted(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights(seed=5))
    model = load_transformer(path)
    path.unlink()
    expected = tiny_model(seed=5).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
