"""Find the weights and the config in a folder: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...files import read_json
from .records import FileHeader, FileKind, damaged, incomplete
from .shards import joined_shards, partial_downloads

MAX_CONFIG_BYTES = 2**20
CONFIG_NAME = "config.json"
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

    The names that diffusers and transformers use decide if one is there, then a shard index, in
    either spelling of a variant, then shards that count themselves, then a single .safetensors
    file of any name.

    Raises:
        CheckpointError: if there is none, or if there are several and nothing says which.
        CorruptCheckpointError: naming each file that a set of shards lacks.
    """
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return [folder / name]
    shards = joined_shards(folder)
    if shards:
        return shards
    files = visible(folder, "*.safetensors")
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
        f"{partial_downloads(folder)}"
        "Choose the folder that holds the weights, or download it again."
    )


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return files by name, without ._NAME, which macOS leaves beside NAME on foreign disks."""
    return sorted(one for one in folder.glob(pattern) if not one.name.startswith("."))


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
