"""The only code that opens weights from outside (docs/faults.md R01-R09).

A header is read and checked first, by this package and not by a library; only then are tensors
mapped or loaded, and checked again against the header.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import CheckpointError, CorruptCheckpointError, UnsafeCheckpointError
from .archive import verify_checksums
from .containers import describe_choice, enter
from .finite import is_finite
from .folders import merge_headers, weight_files
from .leftovers import stand_ins
from .pickle_header import (
    PickleHeader,
    read_legacy_header,
    read_plain_pickle,
    read_zip_header,
)
from .records import (
    FileHeader,
    FileKind,
    TensorFile,
    TensorInfo,
    damaged,
    incomplete,
    shown,
    size_text,
)
from .safetensors_header import LENGTH_BYTES, read_safetensors_header
from .sniff import (
    PROBE_BYTES,
    USUAL_SUFFIXES,
    file_size,
    kind_of,
    not_weights,
    notice_renamed,
    open_weights,
)
from .verified import VerifiedFiles, VerifiedList

log = logging.getLogger("latte")

DIGEST_KEY = "latte_sha256"  # metadata entry: SHA-256 of all bytes after the header
OLDEST_SAFE_TORCH = (2, 6)
CHUNK = 2**22
TORCH_ERRORS = (  # what torch.load, and what takes up what it gave, may raise for a damaged file
    pickle.PickleError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)


def read_header(path: Path | str) -> FileHeader:
    """Describe a weights file, or a folder of shards, without reading its tensors.

    Nothing is unpickled and no tensor is allocated; any size of file takes well under a second. A
    file whose data is cut short is described, with `is_whole` false.

    Raises:
        CheckpointError: as the narrowest of its kinds, with a sentence for a person.
    """
    path = Path(path)
    if path.is_dir():
        files = weight_files(path)
        return merge_headers(path, [read_header(file) for file in files])
    with open_weights(path) as handle:
        return describe(path, handle)[0]


def describe(path: Path, handle: BinaryIO) -> tuple[FileHeader, PickleHeader | None]:
    """Return the header of one open file; for a PyTorch file also what its pickle holds."""
    kind = kind_of(handle.read(PROBE_BYTES))
    pickled: PickleHeader | None = None
    if kind is FileKind.SAFETENSORS:
        header = read_safetensors_header(path, handle)
    elif kind is FileKind.TORCH_ZIP:
        pickled = read_zip_header(path, handle)
        header = pickled.header
    elif kind is FileKind.TORCH_LEGACY:
        pickled = read_legacy_header(path, handle)
        header = pickled.header
    elif kind is FileKind.PICKLE:
        read_plain_pickle(path, handle)
    else:
        raise not_weights(path, kind, file_size(handle))
    notice_renamed(path, kind)
    return header, pickled


def read_tensors(path: Path | str, *, verified: VerifiedFiles | None = None) -> TensorFile:
    """Read a weights file, or a folder of shards, into CPU tensors.

    Tensors of safetensors and PyTorch zip files are mapped, not copied. Every tensor is an
    ordinary one that holds what its shape claims, and every number in it is finite. Files that
    carry a digest of ours are compared with it, once per file if `verified` is given; that a large
    file was compared is also kept for other processes, see `VerifiedList`.

    Raises:
        UnsafeCheckpointError: for a pickle that would import something, and for any pickle on a
            torch below 2.6.
        CorruptCheckpointError: for a file that is cut short, damaged, or not weights.
        CheckpointError: for a file that cannot be opened.
    """
    path = Path(path)
    if not path.is_dir():
        return read_one(path, verified)
    parts = [read_one(file, verified) for file in weight_files(path)]
    header = merge_headers(path, [part.header for part in parts])
    tensors = {key: value for part in parts for key, value in part.tensors.items()}
    return TensorFile(
        name=header.name, tensors=tensors, metadata=dict(header.metadata), header=header
    )


def read_one(path: Path, verified: VerifiedFiles | None) -> TensorFile:
    """Read a single file."""
    with open_weights(path) as handle:
        header, pickled = describe(path, handle)
        if not header.is_whole:
            raise incomplete(path.name, header.num_bytes, header.expected_bytes)
        if pickled is not None:
            require_safe_torch(path)
        verify_bytes(path, handle, header, pickled, verified)
    tensors = load_safetensors(path) if pickled is None else load_pickle(path, pickled)
    describe_choice(path.name, header.container)
    checked = check_tensors(path.name, tensors, header.tensors)
    return TensorFile(
        name=path.name, tensors=checked, metadata=dict(header.metadata), header=header
    )


def verify_bytes(
    path: Path,
    handle: BinaryIO,
    header: FileHeader,
    pickled: PickleHeader | None,
    verified: VerifiedFiles | None,
) -> None:
    """Compare all bytes of a file with its digest or checksums, unless this was done before."""
    expected = header.metadata.get(DIGEST_KEY)
    if pickled is None and expected is None:
        return
    if verified is not None and verified.knows(path, handle):
        return
    listed = VerifiedList.of_user(os.environ, header.num_bytes)
    identity = listed.identity(handle)
    if not listed.knows(identity):
        if pickled is not None:
            verify_checksums(path, handle, pickled.entries)
        elif expected is not None:
            verify_digest(path, handle, expected)
        if listed.identity(handle) == identity:  # nobody wrote to it meanwhile
            listed.remember(identity)
    if verified is not None:
        verified.remember(path, handle)


def verify_digest(path: Path, handle: BinaryIO, expected: str) -> None:
    """Compare a file of ours with the digest in its metadata."""
    handle.seek(0)
    handle.seek(LENGTH_BYTES + int.from_bytes(handle.read(LENGTH_BYTES), "little"))
    digest = hashlib.sha256()
    while chunk := handle.read(CHUNK):
        digest.update(chunk)
    if digest.hexdigest() != expected:
        raise damaged(path.name, "its contents do not have the SHA-256 that its header gives")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a file whose header has been checked."""
    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")
        with opened as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} vanished while it was being read.") from error
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path.name, "its tensors cannot be read as its header describes") from error


def require_safe_torch(path: Path) -> None:
    """Refuse pickles on a torch whose safe unpickler can be tricked (CVE-2025-32434)."""
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < OLDEST_SAFE_TORCH:
        raise UnsafeCheckpointError(
            f"{path.name} is a pickle, and torch {torch.__version__} cannot open pickles safely "
            "(CVE-2025-32434). Use a .safetensors copy, or torch 2.6 or newer."
        )


def load_pickle(path: Path, pickled: PickleHeader) -> Mapping[str, object]:
    """Load a PyTorch file whose outline has been checked, tensors only."""
    # torch unpickles what it was told by name alone, so nothing of the real modules is touched
    named: list[Any] = list(stand_ins(pickled.outline.imports))
    allowed = torch.serialization.safe_globals(named) if named else nullcontext()
    try:
        with allowed, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's advice is not for our users
            loaded = load_weights_only(path, is_zip=pickled.header.kind is FileKind.TORCH_ZIP)
        return enter(loaded, pickled.header.container)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} vanished while it was being read.") from error
    except TORCH_ERRORS as error:
        raise damaged(path.name, "its tensors cannot be read as its contents describe") from error


def load_weights_only(path: Path, *, is_zip: bool) -> object:
    """Call torch, mapping a zip file; a name that torch takes for another format is not shown."""
    loaded: Any
    if is_zip and path.suffix in USUAL_SUFFIXES[FileKind.TORCH_ZIP]:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    else:
        with path.open("rb") as handle:
            loaded = torch.load(handle, map_location="cpu", weights_only=True)
    return loaded


def check_tensors(
    name: str, found: Mapping[str, object], described: Mapping[str, TensorInfo]
) -> dict[str, Tensor]:
    """Return the described tensors, each ordinary, of the described shape, and finite."""
    tensors: dict[str, Tensor] = {}
    for key, info in described.items():
        tensor = plain_tensor(name, key, found.get(key))
        if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
            raise damaged(name, f"tensor {shown(key)} is not what the header describes")
        if not is_finite(tensor):
            raise CorruptCheckpointError(
                f"{name} cannot be used: tensor {shown(key)} contains NaN or Inf. "
                "The file is damaged or the training run diverged; download or train it again."
            )
        tensors[key] = tensor
    return tensors


def plain_tensor(name: str, key: str, value: object) -> Tensor:
    """Return `value` if it is a dense CPU tensor that really holds what its shape claims (R03).

    Raises:
        CorruptCheckpointError: otherwise, naming the tensor.
    """
    if not isinstance(value, Tensor) or type(value) not in (Tensor, torch.nn.Parameter):
        raise damaged(name, f"{shown(key)} is not an ordinary tensor")
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise damaged(name, f"{shown(key)} is not an ordinary tensor")
    stored = value.untyped_storage().nbytes()
    claimed = value.numel() * value.element_size()
    if claimed > stored:
        raise damaged(
            name, f"tensor {shown(key)} claims {size_text(claimed)} but stores {size_text(stored)}"
        )
    return value.detach()
