"""File systems that lack something: network shares, object stores, FAT, Windows (R49-R51)."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_core import files
from latte_core.errors import VideoWriteError
from latte_core.files import atomic_write, replace_file
from latte_core.video import check_target, write_video, writer
from latte_core.video.frame_folder import write_frame_folder

FRAMES = torch.zeros(2, 16, 16, 3)


def refusing(code: int) -> Any:
    """Return a function that fails as a system call does."""

    def call(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def only_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("call", ["chmod", "fsync"])
def test_what_is_not_essential_is_skipped_quietly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    code: int,
) -> None:
    monkeypatch.setattr(os, call, refusing(code))
    write_video(tmp_path / "a.gif", FRAMES)
    assert only_names(tmp_path) == ["a.gif"]
    assert caplog.text == ""


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_data_that_did_not_reach_the_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "a.gif").write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(OSError), atomic_write(tmp_path / "a.gif") as partial:
        partial.write_bytes(b"newer")
    assert (tmp_path / "a.gif").read_bytes() == b"older"
    assert only_names(tmp_path) == ["a.gif"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV])
def test_disk_that_cannot_rename_gets_copies_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    monkeypatch.setattr(Path, "replace", refusing(code))
    monkeypatch.setattr(Path, "rename", refusing(code))
    with caplog.at_level(logging.WARNING, "latte"):
        write_video(tmp_path / "a.gif", FRAMES)
        write_frame_folder(tmp_path / "b", FRAMES.to(torch.uint8))
    assert only_names(tmp_path) == ["a.gif", "b"]
    assert only_names(tmp_path / "b") == ["000000.png", "000001.png"]
    assert "cannot rename files" in caplog.text


def test_copy_that_fails_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refusing(errno.ENOSYS))
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space left"), atomic_write(tmp_path / "a") as partial:
        partial.write_bytes(b"whole")
    assert only_names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EBUSY, errno.ETXTBSY])
def test_file_that_another_program_has_open_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    source, target = tmp_path / "new", tmp_path / "old.mp4"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refusing(code))
    with pytest.raises(OSError, match=r"old\.mp4 is open in another program or protected"):
        replace_file(source, target)
    assert waits == [*files.REPLACE_WAITS]
    assert target.read_bytes() == b"old"


def test_share_that_lets_nothing_be_removed_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", refusing(errno.EPERM))
    check_target(tmp_path / "a.gif", 2, 16, 16)
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "b") as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError  # is what arrives, not that the half file stays


def test_disk_that_does_not_say_its_free_space_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", refusing(errno.ENOSYS))
    monkeypatch.setattr(writer, "run_encoder", lambda *_: (1, "the encoder's words"))
    with pytest.raises(VideoWriteError, match="the encoder's words"):
        write_video(tmp_path / "a.gif", FRAMES)
