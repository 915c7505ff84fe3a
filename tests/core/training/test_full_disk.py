"""A training on a disk that is full, or becomes so: docs/faults.md R49."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.tiny.training import tiny_config, write_set

from latte_core.errors import CheckpointError
from latte_core.training import state
from latte_core.training.run import train
from latte_core.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk that has room for one checkpoint, where this machine lets us."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8000k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let tests mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def fill(folder: Path, left: int) -> Path:
    """Take all room of a disk but some bytes, and return the file that does."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "other").write_bytes(bytes(free - left))
    return folder / "other"


@pytest.mark.parametrize("left", [0, 4096, 65536, 131072])
def test_r49_full_disk_ends_a_training_with_one_sentence(
    left: int, small_disk: Path, data: Path
) -> None:
    folder = RunFolder(small_disk / "run")
    folder.open({}, frozenset())
    folder.write_status("preparing")
    other = fill(small_disk, left)
    with pytest.raises(CheckpointError, match="disk is full"):
        train(tiny_config(data, folder.path), device="cpu")
    assert folder.status()["state"] == "failed"
    assert "disk is full" in folder.status()["message"]
    assert list((folder.path).glob("checkpoints/*")) == []
    assert list(folder.path.rglob("*.part*")) == []
    other.unlink()
    train(tiny_config(data, folder.path, num_steps=1, keep=1), device="cpu")
    assert folder.status()["state"] == "finished"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_r49_checkpoint_that_cannot_be_written_leaves_the_older_one_and_no_folder(
    number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    train(tiny_config(data, folder.path, num_steps=2), device="cpu")
    written = folder.state_file(2).read_bytes()

    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state.Watched, "write", fails)
    with pytest.raises(CheckpointError, match=r"state\.pt was not written"):
        train(tiny_config(data, folder.path, num_steps=4), device="cpu")
    monkeypatch.undo()
    assert folder.status()["state"] == "failed"
    assert [one.name for one in (folder.path / "checkpoints").iterdir()] == ["step-00000002"]
    assert folder.state_file(2).read_bytes() == written
    train(tiny_config(data, folder.path, num_steps=4), device="cpu")
    assert folder.steps() == [2, 4]


@pytest.mark.parametrize("name", ["append_log", "write_json"])
def test_r49_file_of_a_run_that_cannot_be_written_is_told_with_the_way_on(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    train(tiny_config(data, folder.path, num_steps=2), device="cpu")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, name, fails)
    with pytest.raises(CheckpointError, match="disk is full.*goes on from update 2"):
        train(tiny_config(data, folder.path, num_steps=4), device="cpu")
    monkeypatch.undo()
    assert folder.status()["state"] == "failed"
