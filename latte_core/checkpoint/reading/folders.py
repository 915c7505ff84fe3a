"""Find the weights and the config in a folder: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ...errors import CheckpointError, CorruptCheckpointError
from ...files import read_json
from .records import FileHeader, FileKind, damaged, incomplete, shown

MAX_CONFIG_BYTES = 2**20
MAX_SHARDS = 1000
CONFIG_NAME = "config.json"
INDEX_PATTERNS = ("*.safetensors.index.json", "*.bin.index.json")
USUAL_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of `folder`, in the order to read them.

    A shard index decides if there is one, then the names that diffusers and transformers use, then
    a single .safetensors file of any name.

    Raises:
        CheckpointError: if there is none, or if there are several and nothing says which.
        CorruptCheckpointError: if an index names a file that is missing or outside the folder.
    """
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return [folder / name]
    for pattern in INDEX_PATTERNS:
        for index in _visible(folder, pattern):
            return shards_of(index)
    files = _visible(folder, "*.safetensors")
    if len(files) == 1:
        return files
    if files:
        listed = ", ".join(file.name for file in files[:5])
        raise CheckpointError(
            f"{folder.name} holds {len(files)} weight files ({listed}) and no index that joins "
            "them. Choose one of them, or add the index file."
        )
    raise CheckpointError(
        f"{folder.name} is a folder without weights; a .safetensors file was expected in it. "
        "Choose the folder that holds the weights, or download it again."
    )


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return files by name, without ._NAME, which macOS leaves beside NAME on foreign disks."""
    return sorted(one for one in folder.glob(pattern) if not one.name.startswith("."))


def shards_of(index: Path) -> list[Path]:
    """Return the files that a shard index names, each beside the index and present."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise damaged(index.name, "it maps no weights to files")
    names: dict[str, None] = {}
    for name in cast("dict[str, object]", table).values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or ":" in name:
            raise damaged(index.name, f"it names {shown(str(name))}, which is no file beside it")
        names[name] = None
    if len(names) > MAX_SHARDS:
        raise damaged(index.name, f"it names {len(names)} files")
    files = [index.with_name(name) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CorruptCheckpointError(
            f"{index.parent.name} lacks {len(missing)} of {len(files)} weight files: "
            f"{', '.join(shown(name) for name in missing[:5])}. Download them again."
        )
    return files


def merge_headers(folder: Path, headers: list[FileHeader]) -> FileHeader:
    """Return one header for all files of a folder.

    Raises:
        CorruptCheckpointError: if two shards hold the same tensor.
    """
    if len(headers) == 1:
        return headers[0]
    tensors = {key: info for header in headers for key, info in header.tensors.items()}
    if len(tensors) < sum(len(header.tensors) for header in headers):
        raise damaged(folder.name, "two of its files hold the same tensor")
    cut = [header for header in headers if not header.is_whole]
    if cut:
        raise incomplete(cut[0].name, cut[0].num_bytes, cut[0].expected_bytes)
    return FileHeader(
        name=folder.name,
        kind=FileKind.FOLDER,
        files=tuple(file for header in headers for file in header.files),
        tensors=tensors,
        metadata={},
        num_bytes=sum(header.num_bytes for header in headers),
        expected_bytes=sum(header.expected_bytes for header in headers),
    )


def config_beside(path: Path, name: str = CONFIG_NAME) -> Mapping[str, Any] | None:
    """Return the config in the folder `path`, or beside the file `path`, if there is one.

    Raises:
        CheckpointError: if it cannot be read; see `read_json`.
    """
    config = (path if path.is_dir() else path.parent) / name
    return read_json(config, MAX_CONFIG_BYTES) if config.is_file() else None
