"""Sets whose writer is killed, cancelled or runs out of disk, and is started again (R49, R50)."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.checkpoint.writing import writer as checkpoint_writer
from latte_core.data import LatentSet, LatentSetWriter
from latte_core.errors import CheckpointError, InvalidInputError

ROOT = Path(__file__).resolve().parents[4]
NUM_CLIPS = 30
SETTINGS: dict[str, Any] = {
    "latent_height": 2,
    "latent_width": 3,
    "scaling_factor": 0.5,
    "model": "tiny",
    "text_width": 4,
    "clips_per_shard": 4,
}
# Writes the whole set again and again going on, as a program does that is started after each kill;
# a word on standard output after each clip lets the test choose its moment.
SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
sys.path.insert(0, {str(ROOT / "tests" / "core" / "data" / "sets")!r})
import test_resume
test_resume.write_all(Path(sys.argv[1]), tell=lambda: print("clip", flush=True))
"""


def latents(index: int) -> Tensor:
    return torch.full((1 + index % 3, 4, 2, 3), float(index))


def features(texts: Sequence[str]) -> list[Tensor]:
    return [torch.full((len(text) + 1, 4), float(len(text))) for text in texts]


def write_all(folder: Path, tell: Any = None, last: int = NUM_CLIPS) -> LatentSetWriter:
    """Add every clip that is not stored, and all texts; skip every seventh clip."""
    writer = LatentSetWriter(folder, **SETTINGS)
    for index in range(last):
        name = f"{index}.mp4"
        if name in writer:
            continue
        if index % 7 == 5:
            writer.skip(name, "It is damaged.")
        else:
            writer.add(latents(index), name=name, captions=[f"caption {index % 9}"])
        if tell is not None:
            tell()
    if last == NUM_CLIPS:
        writer.add_texts(features)
        writer.finish()
    return writer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "set"
    write_all(folder)
    return contents(folder)


def test_undisturbed_set_has_files_of_four_clips(undisturbed: dict[str, bytes]) -> None:
    kinds = [name.partition("-")[0] for name in undisturbed]
    assert kinds == ["latents"] * 7 + ["set.json", "text"]
    assert len(json.loads(undisturbed["set.json"])["skipped"]) == 4


@pytest.mark.parametrize("last", [0, 1, 4, 5, 9, 17, 29])
def test_begun_set_ends_in_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], last: int
) -> None:
    folder = tmp_path / "set"
    write_all(folder, last=last)
    done = sum(index % 7 != 5 for index in range(last))
    kept = write_all(folder, last=0).num_clips
    assert kept == done - done % 4
    told: list[int] = []
    write_all(folder, tell=lambda: told.append(1))
    assert contents(folder) == undisturbed
    assert len(told) < NUM_CLIPS - kept + 1


class StoppedError(Exception):
    """What a callback may raise."""


def test_cancelled_texts_go_on_with_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    folder = tmp_path / "set"
    writer = write_all(folder, last=NUM_CLIPS - 1)
    stop = StoppedError()

    def cancel(done: int, total: int) -> None:
        raise stop

    with pytest.raises(StoppedError) as caught:
        writer.add_texts(features, callback=cancel)
    assert caught.value is stop
    assert not [name for name in contents(folder) if ".part" in name or name.startswith("text")]
    write_all(folder)
    # the last file was closed before its time, so that file alone may differ
    found = LatentSet.open(folder, verify=True)
    assert [found.name(index) for index in range(len(found))] == [
        f"{index}.mp4" for index in range(NUM_CLIPS) if index % 7 != 5
    ]


@pytest.mark.parametrize(
    "moment", [7, 20, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (1, 13, 26, 29))]
)
def test_r50_killed_writer_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], moment: int
) -> None:
    folder = tmp_path / "set"
    rng = random.Random(moment)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout as output:
        for _ in range(moment):
            assert output.readline() == b"clip\n"
        try:
            process.wait(timeout=rng.random() * 0.01)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if "set.json" not in contents(folder):
        with pytest.raises(InvalidInputError, match="unfinished"):
            LatentSet.open(folder)
        write_all(folder)
    assert contents(folder) == undisturbed


def test_what_a_killed_run_left_half_written_is_removed(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    folder = tmp_path / "set"
    write_all(folder, last=12)
    (folder / ".latents-00003.0123abcd.part.safetensors").write_bytes(b"half")
    write_all(folder)
    assert contents(folder) == undisturbed


def test_file_without_its_line_in_the_journal_is_written_again(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    folder = tmp_path / "set"
    write_all(folder, last=7)
    before = (folder / "unfinished.json").read_bytes()
    write_all(folder, last=12)
    (folder / "unfinished.json").write_bytes(before)  # killed between the file and its line
    write_all(folder)
    assert contents(folder) == undisturbed


@pytest.mark.parametrize("name", ["latents-00000.safetensors", "latents-00001.safetensors"])
def test_file_that_is_gone_or_cut_is_made_again_with_all_after_it(
    tmp_path: Path, undisturbed: dict[str, bytes], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "set"
    write_all(folder, last=20)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    write_all(folder)
    assert contents(folder) == undisturbed
    assert f"{name} of the unfinished set set is not whole" in caplog.text


def test_texts_of_lost_clips_are_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    writer = LatentSetWriter(folder, **SETTINGS)
    writer.add(latents(0), name="a", captions=["old words"])
    writer.add_texts(features)
    (folder / "latents-00000.safetensors").unlink()
    writer = LatentSetWriter(folder, **SETTINGS)
    writer.add(latents(1), name="b", captions=["new"])
    writer.add_texts(features)
    found = writer.finish()
    assert [found.caption(number) for number in range(found.num_captions)] == ["", "new"]
    assert torch.equal(found.context(1), features(["new"])[0])


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_all(tmp_path / "set", last=3)
    with pytest.raises(InvalidInputError, match="begun with latent_width 3, but now it is 5"):
        LatentSetWriter(tmp_path / "set", **{**SETTINGS, "latent_width": 5})
    with pytest.raises(InvalidInputError, match="begun with model 'tiny'"):
        LatentSetWriter(tmp_path / "set", **{**SETTINGS, "model": "other"})


def test_damaged_journal_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path / "set", last=9)
    (tmp_path / "set" / "unfinished.json").write_text('{"format": "latte-latent-set"}')
    with pytest.raises(InvalidInputError, match="version None"):
        LatentSetWriter(tmp_path / "set", **SETTINGS)


@pytest.mark.parametrize("failing", [1, 2, 3, 5, 6])
def test_r49_full_disk_is_told_and_the_set_can_be_gone_on_with(
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
) -> None:
    folder = tmp_path / "set"
    calls: list[int] = []

    def write_some(handle: Any, header: bytes, tensors: Any) -> None:
        calls.append(1)
        if len(calls) == failing:
            handle.write(header[: len(header) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle, header, tensors)

    real = checkpoint_writer.write_all
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "write_all", write_some)
        with pytest.raises(CheckpointError, match="disk is full"):
            write_all(folder)
    assert not [name for name in contents(folder) if ".part" in name]
    write_all(folder)
    assert contents(folder) == undisturbed
