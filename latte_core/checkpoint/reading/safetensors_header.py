"""Read and check the header of a safetensors file without trusting any number in it (R05).

Layout: 8 bytes little-endian header length N, N bytes of JSON, then the data. Each tensor's
`data_offsets` count from the end of the header.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from ...checks import is_whole
from ...errors import CorruptCheckpointError
from .records import (
    MAX_DIMENSION,
    MAX_TENSORS,
    FileHeader,
    FileKind,
    TensorInfo,
    damaged,
    incomplete,
    shown,
    size_text,
)
from .sniff import file_size

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 * 2**20
MAX_METADATA_BYTES = 4 * 2**20  # room for the workflow that ComfyUI stores in saved models
MAX_DIMENSIONS = 16
METADATA_KEY = "__metadata__"
# Type name in the file -> (bits per element, name of the torch dtype or "" if torch has none).
TYPES: dict[str, tuple[int, str]] = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "U16": (16, "uint16"),
    "I16": (16, "int16"),
    "U32": (32, "uint32"),
    "I32": (32, "int32"),
    "U64": (64, "uint64"),
    "I64": (64, "int64"),
    "F4": (4, ""),
    "F6_E2M3": (6, ""),
    "F6_E3M2": (6, ""),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F32": (32, "float32"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
}


def read_safetensors_header(path: Path, handle: BinaryIO) -> FileHeader:
    """Return the checked header of an open safetensors file.

    A file whose data is cut short is returned with `expected_bytes` above `num_bytes`.

    Raises:
        IncompleteFileError: if the file ends inside the header.
        CorruptCheckpointError: if the header breaks a limit or contradicts itself.
    """
    name, found = path.name, file_size(handle)
    handle.seek(0)
    length = int.from_bytes(handle.read(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise damaged(
            name, f"its header claims {size_text(length)}, the limit is {MAX_HEADER_BYTES} bytes"
        )
    text = handle.read(length)
    if len(text) < length or found < LENGTH_BYTES + length:
        raise incomplete(name, found, LENGTH_BYTES + length + 1, at_least=True)
    entries = parse_json(name, text)
    metadata = check_metadata(name, entries.pop(METADATA_KEY, None))
    if len(entries) > MAX_TENSORS:
        raise damaged(name, f"it lists {len(entries)} tensors, the limit is {MAX_TENSORS}")
    tensors, num_bytes = check_tensors(name, entries)
    expected = LENGTH_BYTES + length + num_bytes
    if found > expected:
        raise damaged(name, f"it has {found} bytes, but its tensors end at {expected}")
    return FileHeader(
        name=name,
        kind=FileKind.SAFETENSORS,
        files=(path,),
        tensors=tensors,
        metadata=metadata,
        num_bytes=found,
        expected_bytes=expected,
    )


def parse_json(name: str, text: bytes) -> dict[str, Any]:
    """Parse the header; every object in it must have distinct keys."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise damaged(name, "its header names the same entry twice")
        return table

    try:
        parsed: object = json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(name, "its header is not readable JSON") from error
    except CorruptCheckpointError:
        raise
    except ValueError as error:  # an integer with thousands of digits
        raise damaged(name, "its header holds a number without measure") from error
    if not isinstance(parsed, dict):
        raise damaged(name, "its header is not a table of tensors")
    return cast("dict[str, Any]", parsed)


def check_metadata(name: str, found: object) -> dict[str, str]:
    """Return the text entries, each a string of at most MAX_METADATA_BYTES."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise damaged(name, "its metadata is not a table")
    entries = cast("dict[str, object]", found)
    for key, value in entries.items():
        if not isinstance(value, str):
            raise damaged(name, f"its metadata entry {shown(key)} is not text")
        if len(key) + len(value) > MAX_METADATA_BYTES:
            raise damaged(
                name,
                f"its metadata entry {shown(key)} has {size_text(len(value))}, "
                f"the limit is {MAX_METADATA_BYTES} bytes",
            )
    return cast("dict[str, str]", found)


def check_tensors(name: str, entries: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """Return the described tensors and the bytes of data they fill without gap or overlap."""
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorInfo] = {}
    for key, entry in entries.items():
        info, begin, end = check_tensor(name, key, entry)
        tensors[key] = info
        spans.append((begin, end, key))
    position = 0
    for begin, end, key in sorted(spans):
        if begin != position:
            word = "overlaps" if begin < position else "leaves a gap after"
            raise damaged(name, f"tensor {shown(key)} {word} the one before it")
        position = end
    return tensors, position


def check_tensor(name: str, key: str, entry: object) -> tuple[TensorInfo, int, int]:
    """Return one tensor's description and its first and last byte in the data."""
    if not isinstance(entry, dict):
        raise damaged(name, f"tensor {shown(key)} has no description")
    table = cast("dict[str, object]", entry)
    if set(table) != {"dtype", "shape", "data_offsets"}:
        raise damaged(
            name, f"tensor {shown(key)} is not described by dtype, shape and data_offsets"
        )
    type_name = table["dtype"]
    if not isinstance(type_name, str) or type_name not in TYPES:
        raise damaged(name, f"tensor {shown(key)} has an unknown data type")
    shape = whole_numbers(table["shape"], MAX_DIMENSION)
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise damaged(name, f"tensor {shown(key)} has an impossible shape")
    offsets = whole_numbers(table["data_offsets"], 2**63)
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(name, f"tensor {shown(key)} has impossible data offsets")
    bits, torch_name = TYPES[type_name]
    claimed, stored = prod(shape) * bits, offsets[1] - offsets[0]
    if claimed != stored * 8:
        raise damaged(
            name,
            f"tensor {shown(key)} claims {size_text(claimed // 8)} but stores {size_text(stored)}",
        )
    dtype = getattr(torch, torch_name, None) if torch_name else None
    return TensorInfo(shape=shape, dtype=dtype, type_name=type_name), offsets[0], offsets[1]


def whole_numbers(value: object, highest: int) -> tuple[int, ...] | None:
    """Return `value` as a tuple if it is a list of integers in 0 .. highest, else None."""
    if not isinstance(value, list):
        return None
    numbers = cast("list[object]", value)
    found = tuple(number for number in numbers if is_whole(number, 0, highest))
    return found if len(found) == len(numbers) else None
