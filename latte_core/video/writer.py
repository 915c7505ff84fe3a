"""Frames to mp4, webm, gif or png: checked first, written beside the target, renamed when whole."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from ..errors import LatteError, VideoWriteError
from ..files import atomic_write
from .ffmpeg import has_encoder, run_encoder
from .formats import FrameRate, VideoFormat, format_for, load_formats
from .frames import FrameStream, bytes_from_frames, check_frames

DEFAULT_FPS = 8
MAX_METADATA = 16384  # characters; a command line on Windows holds 32767
LIKELY_COMPRESSION = 4  # encoded clips need at most about a quarter of their raw bytes


def write_video(
    path: str | Path,
    frames: Tensor | FrameStream,
    fps: FrameRate = DEFAULT_FPS,
    *,
    metadata: str | None = None,
) -> Path:
    """Write a video; the extension chooses the format of `formats.json`.

    Args:
        path: file to write; missing folders are made, an older file is replaced when the new one
            is whole and untouched otherwise.
        frames: (F, H, W, 3) float in [0, 1], or a stream of them; values outside are clamped.
        fps: frames per second; stored to a thousandth.
        metadata: text for the file's comment, where the format holds one.

    Returns:
        The path that was written.

    Raises:
        InvalidInputError: for a size, frame count, rate or extension that cannot be written.
        NonFiniteError: if the frames hold NaN or infinity.
        MissingDependencyError: if imageio-ffmpeg is missing.
        VideoWriteError: if the file could not be written whole.
    """
    target = Path(path)
    stream = frames if isinstance(frames, FrameStream) else FrameStream.of(check_frames(frames))
    chosen, rate = check_target(target, stream.num_frames, stream.height, stream.width, fps)
    comment = _comment_arguments(chosen, metadata)
    try:
        with atomic_write(target) as partial:
            _encode(partial, target, stream, chosen, rate, comment)
    except LatteError:
        raise
    except OSError as error:
        raise VideoWriteError(_failure(target, chosen, stream, str(error))) from error
    return target


def write_image(path: str | Path, frame: Tensor) -> Path:
    """Write one frame, (H, W, 3) float in [0, 1], losslessly.

    Raises:
        As `write_video`.
    """
    return write_video(path, frame[None])


def check_target(
    path: str | Path, num_frames: int, height: int, width: int, fps: FrameRate = DEFAULT_FPS
) -> tuple[VideoFormat, Fraction]:
    """Find out before the work begins whether a video can be written; make missing folders.

    Returns:
        The format and the exact rate.

    Raises:
        InvalidInputError: for a size, frame count, rate or extension that cannot be written.
        VideoWriteError: if the folder cannot be made or written to.
    """
    target = Path(path)
    chosen = format_for(target)
    chosen.check_size(num_frames, height, width)
    rate = chosen.check_rate(fps)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(f"{target.name} is a folder")
        with atomic_write(target.with_name(f"{target.name}.probe")) as probe:
            probe.touch()
        with suppress(OSError):  # some shares let files be written, but not removed
            target.with_name(f"{target.name}.probe").unlink()
    except (OSError, ValueError) as error:
        raise VideoWriteError(
            f"{_short(target.name)} cannot be written to the folder {target.parent.name!r}: "
            f"{_reason(error)}. Choose a folder you may write to, or a shorter name."
        ) from error
    return chosen, rate


def _encode(
    partial: Path,
    target: Path,
    stream: FrameStream,
    chosen: VideoFormat,
    rate: Fraction,
    comment: list[str],
) -> None:
    arguments = [
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{stream.width}x{stream.height}"),
        *("-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0"),
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", *comment),
        *chosen.arguments,
        f"file:{partial.resolve()}",
    ]
    code, said = run_encoder(arguments, _raw_frames(stream))
    if code != 0 or not partial.is_file() or partial.stat().st_size == 0:
        said = said or f"the encoder ended with code {code}"
        raise VideoWriteError(_failure(target, chosen, stream, said))


def _raw_frames(stream: FrameStream) -> Iterator[bytes]:
    for frame in stream.checked():
        yield bytes_from_frames(frame[None]).contiguous().numpy().tobytes()


def _comment_arguments(chosen: VideoFormat, metadata: str | None) -> list[str]:
    if not metadata:
        return []
    if not chosen.holds_metadata or len(metadata) > MAX_METADATA:
        reason = (
            f"a comment holds {MAX_METADATA} characters at most and this one has {len(metadata)}"
            if chosen.holds_metadata
            else f"{chosen.name} files hold none"
        )
        warnings.warn(f"The video is saved without its metadata: {reason}.", stacklevel=3)
        return []
    safe = metadata.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")
    return ["-metadata", f"comment={safe}"]


def _failure(target: Path, chosen: VideoFormat, stream: FrameStream, said: str) -> str:
    """Say why a file could not be written: a full disk, a missing encoder, or ffmpeg's words."""
    needed = stream.num_frames * stream.height * stream.width * 3 // LIKELY_COMPRESSION
    free = _free_space(target.parent)
    if free is not None and free < needed:
        return (
            f"Disk full: {_short(target.name)} was not written. About {_size(needed)} needed, "
            f"{_size(free)} free in {target.parent.name}/. Free some space and run again."
        )
    if not has_encoder(chosen.encoder):
        working = [name for name, entry in load_formats().items() if has_encoder(entry.encoder)]
        return (
            f"{_short(target.name)} was not written: this ffmpeg has no {chosen.encoder} encoder. "
            f"Formats that work here: {', '.join(working)}."
        )
    return f"{_short(target.name)} was not written: {said}"


def _free_space(folder: Path) -> int | None:
    """Return the free bytes of a disk, None if it does not say; object stores say 0 of 0."""
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        return usage.free if usage.total else None
    return None


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 10e6 else f"{count / 1e3:.0f} kB"


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:40]}...{name[-15:]}"


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
