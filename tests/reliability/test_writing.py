"""Files we write: docs/faults.md 6. R51-R53 and R55 stand beside what they test in core/video."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from latte_core.errors import VideoWriteError
from latte_core.video import check_target, ffmpeg, read_video, write_video, writer

ROOT = Path(__file__).resolve().parents[2]
OLDER = b"an older file"


def noisy_clip(num_frames: int = 16, side: int = 64) -> torch.Tensor:
    return torch.rand((num_frames, side, side, 3), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 64 kB, where this machine lets us."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let tests mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif"])
def test_r49_full_disk_is_named_and_leaves_the_older_file(tiny_disk: Path, extension: str) -> None:
    target = tiny_disk / f"clip.{extension}"
    target.write_bytes(OLDER)
    with pytest.raises(VideoWriteError, match=r"Disk full: clip.*needed.*free in disk/"):
        write_video(target, noisy_clip())
    assert [entry.name for entry in tiny_disk.iterdir()] == [target.name]
    assert target.read_bytes() == OLDER


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
@pytest.mark.parametrize("limit", [0, 1, 100, 1000, 20000])
def test_r49_write_that_fails_after_n_bytes_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    import resource

    class LimitedPopen(subprocess.Popen[bytes]):
        """Start ffmpeg with a limit on the size of files it may write."""

        def __init__(self, *args: object, **options: object) -> None:
            def set_limit() -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            super().__init__(*args, preexec_fn=set_limit, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(ffmpeg.subprocess, "Popen", LimitedPopen)
    target = tmp_path / "clip.mp4"
    target.write_bytes(OLDER)
    with pytest.raises(VideoWriteError, match=r"clip\.mp4 was not written"):
        write_video(target, noisy_clip())
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    assert target.read_bytes() == OLDER


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_r49_error_while_finishing_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(OLDER)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = os if call == "fsync" else Path
    monkeypatch.setattr(writer, "_reason", str)
    check = check_target(target, 1, 64, 64)
    monkeypatch.setattr(writer, "check_target", lambda *_: check)
    monkeypatch.setattr(place, call, fails)
    with pytest.raises(VideoWriteError, match=r"clip\.mp4 was not written.*No space left"):
        write_video(target, noisy_clip())
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    assert target.read_bytes() == OLDER


WRITER = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location(
    "latte_core", {init!r}, submodule_search_locations=[{folder!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["latte_core"] = module
spec.loader.exec_module(module)
from latte_core.video import write_video
frames = torch.rand((16, 128, 128, 3), generator=torch.Generator().manual_seed(3))
write_video({target!r}, frames)
print("ready", flush=True)
while True:
    write_video({target!r}, frames)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_r50_killed_writer_never_leaves_half_a_video(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    package = ROOT / "latte_core"
    script = WRITER.format(
        init=str(package / "__init__.py"), folder=str(package), target=str(target)
    )
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.07 * attempt)  # into the second file or a later one
            os.killpg(process.pid, signal.SIGKILL)
        assert read_video(target).frames.shape == (16, 128, 128, 3)


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """Have a folder that this process may not write to: to root that is a disk, mounted so."""
    folder = tmp_path / "kept"
    folder.mkdir()
    folder.chmod(0o555)
    is_mounted = os.access(folder, os.W_OK)
    if is_mounted:
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this process may write everywhere, and may not mount a disk")
    try:
        yield folder
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "new/clip.png"])
def test_r54_read_only_folder_is_one_clear_error(read_only_folder: Path, name: str) -> None:
    with pytest.raises(
        VideoWriteError, match=r"clip\.\w+ cannot be written to the folder.*(denied|read-only)"
    ):
        check_target(read_only_folder / name, 1, 64, 64)
    assert list(read_only_folder.iterdir()) == []


def test_r54_file_in_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(VideoWriteError, match=r"clip\.mp4 cannot be written to the folder 'file'"):
        check_target(blocker / "clip.mp4", 16, 64, 64)


def test_r54_name_that_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(VideoWriteError, match=r"shorter name"):
        check_target(tmp_path / f"{'x' * 300}.mp4", 16, 64, 64)


def test_r54_folder_in_place_of_the_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(VideoWriteError, match=r"clip\.mp4 is a folder"):
        write_video(tmp_path / "clip.mp4", noisy_clip(2))


def test_r36_interrupt_while_encoding_passes_through_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = KeyboardInterrupt()
    convert, done = writer.bytes_from_frames, []

    def interrupted(frames: torch.Tensor) -> torch.Tensor:
        done.append(1)
        if len(done) == 5:
            raise stop
        return convert(frames)

    monkeypatch.setattr(writer, "bytes_from_frames", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        write_video(tmp_path / "clip.mp4", noisy_clip())
    assert caught.value is stop
    assert list(tmp_path.iterdir()) == []


def test_missing_encoder_is_named_with_the_formats_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = writer.load_formats()
    broken = {
        key: entry.__class__(
            **{
                name: getattr(entry, name)
                for name in entry.__slots__
                if name not in ("encoder", "arguments")
            },
            encoder="libnothing" if key == "mp4" else entry.encoder,
            arguments=tuple(part.replace("libx264", "libnothing") for part in entry.arguments),
        )
        for key, entry in formats.items()
    }
    monkeypatch.setattr(writer, "load_formats", lambda: broken)
    monkeypatch.setattr(writer, "format_for", lambda _: broken["mp4"])
    with pytest.raises(VideoWriteError, match="no libnothing encoder.*webm, gif, png"):
        write_video(tmp_path / "clip.mp4", noisy_clip(2))
