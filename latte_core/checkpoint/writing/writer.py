"""Write safetensors files: whole or not at all, readable, with a digest (R09, R49-R51)."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...errors import CheckpointError, InvalidInputError
from ...files import atomic_write
from ..reading.reader import DIGEST_KEY
from ..reading.records import MAX_TENSORS, shown, size_text
from ..reading.safetensors_header import MAX_HEADER_BYTES, MAX_METADATA_BYTES, METADATA_KEY, TYPES
from ..reading.sniff import reason_of

ALIGNMENT = 8
TYPE_NAMES: Mapping[torch.dtype, str] = {
    getattr(torch, torch_name): type_name
    for type_name, (_, torch_name) in TYPES.items()
    if torch_name and hasattr(torch, torch_name)
}


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file that takes its name only when it is whole.

    The SHA-256 of the data is added to the metadata, and "format": "pt", which other readers want.

    Raises:
        InvalidInputError: for a tensor or metadata that the format, or our reader, cannot hold.
        CheckpointError: if the disk is full or the place cannot be written.
    """
    path = Path(path)
    ordered = order(tensors)
    digest = hashlib.sha256()
    for tensor in ordered.values():
        digest.update(bytes_of(tensor))
    entries = {"format": "pt", **(metadata or {}), DIGEST_KEY: digest.hexdigest()}
    header = header_bytes(ordered, entries)
    try:
        with atomic_write(path) as partial, partial.open("wb") as handle:
            write_all(handle, header, ordered)
    except OSError as error:
        raise unwritable(path, len(header) + num_bytes_of(ordered), error) from error


def order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with wide types first, so that each stays aligned, then by name."""
    if not tensors:
        raise InvalidInputError("There are no tensors to write.")
    if len(tensors) > MAX_TENSORS:
        raise InvalidInputError(f"{len(tensors)} tensors are too many; {MAX_TENSORS} fit a file.")
    for key, tensor in tensors.items():
        if tensor.dtype not in TYPE_NAMES or tensor.is_meta or tensor.layout is not torch.strided:
            raise InvalidInputError(
                f"Tensor {shown(key)} ({tensor.dtype}, {tensor.device}) cannot be written; "
                "an ordinary tensor with data is needed."
            )
    names = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    return {key: tensors[key] for key in names}


def bytes_of(tensor: Tensor) -> memoryview[int]:
    """Return the numbers of a tensor as bytes, row by row, little-endian."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    values: Any = flat.view(torch.uint8).numpy()
    return memoryview(values)


def num_bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of data."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the length field and the header, padded so that the data is aligned."""
    for key, value in metadata.items():
        if len(key) + len(value) > MAX_METADATA_BYTES:
            raise InvalidInputError(
                f"The metadata entry {shown(key)} has {size_text(len(value))}; "
                f"{MAX_METADATA_BYTES} bytes fit."
            )
    table: dict[str, object] = {METADATA_KEY: dict(metadata)}
    position = 0
    for key, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        table[key] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidInputError(f"The header has {size_text(len(text))}, which is too much.")
    return len(text).to_bytes(8, "little") + text


def write_all(handle: BinaryIO, header: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Write the header and every tensor."""
    handle.write(header)
    for tensor in tensors.values():
        handle.write(bytes_of(tensor))


def unwritable(path: Path, needed: int, error: OSError) -> CheckpointError:
    """Return the error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return CheckpointError(
            f"{path.name} was not written: the disk is full. About {size_text(needed)} are needed, "
            f"{size_text(free)} are free."
        )
    return CheckpointError(f"{path.name} was not written: {reason_of(error)}.")
