"""Running the ffmpeg that imageio-ffmpeg brings, and believing only its exit code."""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from ..errors import MissingDependencyError

LAST_LINES = 3


def ffmpeg_path() -> str:
    """Return the ffmpeg program to run.

    Raises:
        MissingDependencyError: if imageio-ffmpeg, or a program for this machine, is missing.
    """
    try:
        module = importlib.import_module("imageio_ffmpeg")
        return str(module.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            "Video files need the package imageio-ffmpeg with its ffmpeg program, which was not "
            "found. Run: pip install imageio-ffmpeg"
        ) from error


def run_encoder(arguments: Sequence[str], frames: Iterable[bytes]) -> tuple[int, str]:
    """Feed raw frames to ffmpeg and wait for it.

    The process is ended in any case, also when an exception passes through.

    Args:
        arguments: ffmpeg options, input `pipe:0` and output file included.
        frames: raw bytes, one item per frame.

    Returns:
        ffmpeg's exit code and the last lines it said.
    """
    command = [ffmpeg_path(), "-hide_banner", "-loglevel", "error", "-y", *arguments]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            _feed(process, frames)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return code, " ".join(lines[-LAST_LINES:])


def run_decoder(arguments: Sequence[str]) -> bytes:
    """Return what ffmpeg writes to standard output, or nothing if it does not end well."""
    answer = subprocess.run(
        [ffmpeg_path(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return answer.stdout if answer.returncode == 0 else b""


def run_probe(arguments: Sequence[str]) -> tuple[bytes, bytes]:
    """Return what ffmpeg writes to standard output, and what its filters say, however it ends."""
    answer = subprocess.run(
        [ffmpeg_path(), "-hide_banner", "-loglevel", "info", "-nostdin", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return answer.stdout, answer.stderr


@dataclass(frozen=True, slots=True)
class Decoder:
    """A running ffmpeg whose output is read piece by piece.

    Args:
        output: what it writes.
        process: itself.
    """

    output: IO[bytes]
    process: subprocess.Popen[bytes]

    def ended_well(self) -> bool:
        """Wait for the end and return whether nothing went wrong; for a reader of all output."""
        return self.process.wait() == 0


@contextmanager
def open_decoder(arguments: Sequence[str]) -> Generator[Decoder]:
    """Start ffmpeg with output `pipe:1`; it is ended with the block, also half-way."""
    process = subprocess.Popen(
        [ffmpeg_path(), "-hide_banner", "-loglevel", "error", "-nostdin", "-xerror", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        with process.stdout as output:
            yield Decoder(output, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _feed(process: subprocess.Popen[bytes], frames: Iterable[bytes]) -> None:
    """Write all frames; an encoder that has died is left to its exit code."""
    pipe = process.stdin
    assert pipe is not None
    try:
        with pipe:
            for frame in frames:
                pipe.write(frame)
    except (BrokenPipeError, ConnectionResetError):
        return


def has_encoder(name: str) -> bool:
    """Return whether this ffmpeg was built with the encoder `name`."""
    return _has("-encoders", name)


def has_decoder(name: str) -> bool:
    """Return whether this ffmpeg was built with the decoder `name`."""
    return _has("-decoders", name)


def has_filter(name: str) -> bool:
    """Return whether this ffmpeg was built with the filter `name`."""
    return _has("-filters", name)


def _has(listing: str, name: str) -> bool:
    """Return whether a list of ffmpeg's has a name, which is the second word of a line."""
    answer = subprocess.run(
        [ffmpeg_path(), "-hide_banner", listing],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    words = (line.split() for line in answer.stdout.decode("utf-8", "replace").splitlines())
    return any(len(line) > 1 and line[1] == name for line in words)
