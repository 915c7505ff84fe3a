"""What is known about a weights file before and after its tensors are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CorruptCheckpointError

MAX_TENSORS = 20_000
MAX_DIMENSION = 2**31


class FileKind(Enum):
    """What the first bytes of a file say it is; the value is how a person would call it."""

    SAFETENSORS = "a safetensors file"
    TORCH_ZIP = "a PyTorch file"
    TORCH_LEGACY = "a PyTorch file in the old format"
    PICKLE = "a Python pickle"
    ZIP = "a zip archive"
    GGUF = "a GGUF file"
    LFS_POINTER = "a Git LFS pointer"
    HTML = "an HTML page"
    JSON = "a JSON text"
    TEXT = "a plain text"
    FOLDER = "a folder"
    TRUNCATED = "a cut-off file"
    OTHER = "an unknown kind of file"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    Args:
        shape: as stored.
        dtype: None for a type that this torch does not know.
        type_name: the dtype as the file spells it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    type_name: str

    @property
    def num_elements(self) -> int:
        """Elements the shape asks for."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileHeader:
    """Everything a weights file (or a folder of shards) says without its data being read.

    Args:
        name: base name, for messages.
        kind: what the file is.
        files: the files read, in order; several for a folder of shards.
        tensors: name -> description.
        metadata: text entries of a safetensors header; empty for other kinds.
        container: keys that lead to the tensors inside a pickle, for example ("ema",).
        num_bytes: size found on disk.
        expected_bytes: size a whole file would have.
    """

    name: str
    kind: FileKind
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    container: tuple[str, ...] = ()
    num_bytes: int = 0
    expected_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether no byte is missing."""
        return self.num_bytes >= self.expected_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFile:
    """The tensors of a file, checked, with the text entries that came with them."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    header: FileHeader


class IncompleteFileError(CorruptCheckpointError):
    """A file ends before its contents do."""


def size_text(num_bytes: int) -> str:
    """Return a size as people write it: 14 kB, 4.2 GB."""
    value = float(num_bytes)
    units = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    digits = 0 if units[0] == "bytes" or value >= 100 else 1
    return f"{value:.{digits}f} {units[0]}"


def shown(name: str) -> str:
    """Return a name from a file as a message can carry it: printable and not endless."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:120])
    return f"{text}..." if len(name) > 120 else text


def incomplete(
    name: str, found: int, expected: int, *, at_least: bool = False
) -> IncompleteFileError:
    """Return the one error for every file that was cut short (R07)."""
    minimum = "at least " if at_least else ""
    return IncompleteFileError(
        f"{name} is incomplete: it has {found} bytes, expected {minimum}{expected}. "
        "The download was probably cut short; download it again."
    )


def damaged(name: str, reason: str) -> CorruptCheckpointError:
    """Return the error for a file whose contents contradict themselves."""
    return CorruptCheckpointError(
        f"{name} is damaged: {reason}. Download it again from where it came."
    )
