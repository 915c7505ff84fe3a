"""Say what a file is from its first bytes; its extension decides nothing (R08)."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...errors import CheckpointError, CorruptCheckpointError
from .records import FileKind, incomplete, size_text

log = logging.getLogger("latte")

PROBE_BYTES = 4096
SHORTEST_FILE = 8  # a safetensors length field; no weights file is shorter
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickle of torch's magic number
ZIP_ENTRY = b"PK\x03\x04"
ZIP_EMPTY = b"PK\x05\x06"
LFS_START = b"version https://git-lfs"
HTML_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
USUAL_SUFFIXES = {
    FileKind.SAFETENSORS: (".safetensors", ".sft"),
    FileKind.TORCH_ZIP: (".pt", ".pth", ".ckpt", ".bin"),
    FileKind.TORCH_LEGACY: (".pt", ".pth", ".ckpt", ".bin"),
}
ADVICE = {
    FileKind.LFS_POINTER: "It only names the real file. Run `git lfs pull`, or download the file "
    "itself",
    FileKind.HTML: "The download probably failed; fetch it again",
    FileKind.GGUF: 'Open it with "Unet Loader (GGUF)", or use a .safetensors copy here',
    FileKind.JSON: "Choose the weights file beside it, usually *.safetensors",
    FileKind.ZIP: "Unpack it and choose the weights file inside",
}


@contextmanager
def open_weights(path: Path) -> Generator[BinaryIO]:
    """Open an ordinary file for reading.

    Raises:
        CheckpointError: for a missing file, a dangling link, a folder, a device or a pipe, and for
            a file that cannot be opened; a pipe is never waited for.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise CheckpointError(describe_missing(path)) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be looked at: {reason_of(error)}.") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path.name} is a folder; a single weights file was expected.")
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{path.name} is a device or a pipe, not a file. Choose a weights file."
        )
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise CheckpointError(describe_missing(path)) from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be opened: {reason_of(error)}.") from error
    with handle:
        yield handle


def describe_missing(path: Path) -> str:
    """Return the sentence for a file that is not there."""
    if path.is_symlink():
        return f"{path.name} is a link to a file that does not exist. Restore the file it names."
    return f"{path.name} was not found. Check the name, or download the file again."


def reason_of(error: OSError | ValueError) -> str:
    """Return the system's own words for an error, without the path."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or "the name is not valid").rstrip(".")


def file_size(handle: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(handle.fileno()).st_size


def sniff(path: Path | str) -> FileKind:
    """Return what the file at `path` is, judged by its first bytes.

    A cut-off weights file keeps its kind as long as its first bytes show it; one of 8 bytes or
    fewer is `TRUNCATED`.

    Raises:
        CheckpointError: if it is missing, or neither a file nor a folder.
    """
    path = Path(path)
    if path.is_dir():
        return FileKind.FOLDER
    with open_weights(path) as handle:
        return kind_of(handle.read(PROBE_BYTES))


def kind_of(start: bytes) -> FileKind:
    """Return what a file is that begins with `start`."""
    if len(start) <= SHORTEST_FILE:
        return FileKind.TRUNCATED
    if start.startswith(LEGACY_MAGIC) or LEGACY_MAGIC.startswith(start):
        return FileKind.TORCH_LEGACY
    if start.startswith(ZIP_ENTRY):
        return kind_of_zip(start)
    if start.startswith(ZIP_EMPTY):
        return FileKind.ZIP
    if start.startswith(b"GGUF"):
        return FileKind.GGUF
    # The length field comes first, so 123 of them begin with a brace as JSON does.
    if start[8:9] == b"{" and start[5:8] == b"\0\0\0":
        return FileKind.SAFETENSORS
    if start[0] == 0x80 and start[1] <= 5:
        return FileKind.PICKLE
    return kind_of_text(start)


def kind_of_zip(start: bytes) -> FileKind:
    """Tell torch's archives, whose first entry is `<name>/data.pkl`, from other zip files."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    is_cut = len(start) < 30 + int.from_bytes(start[26:28], "little")
    return FileKind.TORCH_ZIP if is_cut or name.endswith(b"/data.pkl") else FileKind.ZIP


def kind_of_text(start: bytes) -> FileKind:
    """Tell texts apart from other files."""
    words = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if words.startswith(LFS_START):
        return FileKind.LFS_POINTER
    if words.startswith(HTML_STARTS):
        return FileKind.HTML
    if words.startswith((b"{", b"[")):
        return FileKind.JSON
    is_text = all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)
    return FileKind.TEXT if is_text else FileKind.OTHER


def notice_renamed(path: Path, kind: FileKind) -> None:
    """Log that a file's extension does not say what the file is."""
    usual = USUAL_SUFFIXES.get(kind)
    if usual and path.suffix.lower() not in usual:
        log.warning("%s is %s in spite of its name; it is read as one.", path.name, kind.value)


def not_weights(path: Path, kind: FileKind, num_bytes: int) -> CorruptCheckpointError:
    """Return the error for a file that holds no weights we read, naming what it looks like."""
    if kind is FileKind.TRUNCATED:
        return incomplete(path.name, num_bytes, SHORTEST_FILE + 1, at_least=True)
    advice = ADVICE.get(kind, "Choose a .safetensors or .pt file of Latte")
    return CorruptCheckpointError(
        f"{path.name} looks like {kind.value} ({size_text(num_bytes)}), not like weights. {advice}."
    )
