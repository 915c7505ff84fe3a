"""What the folder of a text encoder says: the memory it needs, and what its features depend on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.reading.reader import read_header, read_tensors
from ...checkpoint.writing.writer import write_safetensors
from ...errors import InvalidInputError
from ...files import cache_folder, read_json
from ...memory import PartSizes
from ...precision.layers import is_target
from ...precision.quantize import text_bytes
from ...text.cache import EmbeddingCache
from ...text.config import T5EncoderConfig
from ...text.fingerprint import fingerprint
from ...text.four_bits import BYTES_PER_NUMBER
from ...text.layouts import SCALE_ENDINGS, UNUSED_ENDINGS, UNUSED_NAMES, WEIGHT, encoder_tensors
from ...text.names import IN_MEMORY, OFF, ON_DISK
from ...text.store import EmbeddingStore, StoredFeatures
from ...text.t5 import EMBEDDING, EMBEDDING_ALIAS, kept_in_float32

STORE_FOLDER = "embeddings"
CONFIG = "config.json"
NO_WEIGHTS = SCALE_ENDINGS + UNUSED_ENDINGS


def make_embedding_cache(choice: str | Path) -> EmbeddingCache | None:
    """Return a cache of prompts.

    Args:
        choice: `off`; `memory`, as long as the pipeline lives; `disk`, also in the user's cache
            folder or `LATTE_CACHE_DIR`; or a folder to keep them in.

    Raises:
        InvalidInputError: for the path of a file, or a text that is no word of these.
    """
    if choice == OFF:
        return None
    if choice == IN_MEMORY:
        return EmbeddingCache()
    folder = cache_folder(os.environ) / STORE_FOLDER if choice == ON_DISK else Path(choice)
    if not str(choice).strip() or (folder.exists() and not folder.is_dir()):
        raise InvalidInputError(
            f"embedding_cache is {str(choice)!r}, but it must be {OFF}, {IN_MEMORY}, {ON_DISK}, or "
            "a folder to keep text features in."
        )
    return EmbeddingCache(EmbeddingStore(folder, read=_read_features, write=_write_features))


def encoder_identity(
    text_folder: Path, tokenizer: Path, dtype: torch.dtype, device: str
) -> Mapping[str, Any]:
    """Return everything that decides text features but the text; see `text.cache.feature_key`.

    Args:
        text_folder, tokenizer: of the model.
        dtype: the encoder runs in.
        device: kind of the one it works on.

    Raises:
        CorruptCheckpointError: if a file cannot be read.
    """
    return {
        "weights": fingerprint(_files_in(text_folder)),
        "tokenizer": fingerprint(_files_in(tokenizer)),
        "dtype": str(dtype),
        "device": device,
        "torch": torch.__version__,
    }


def with_text_encoder(
    sizes: PartSizes, folder: Path, dtype: torch.dtype, precision: str | None = None
) -> PartSizes:
    """Return the sizes of a model's parts with those of its text encoder.

    Args:
        sizes: of the other parts.
        folder: of the text encoder; one that is missing counts nothing.
        dtype: it is to run in.
        precision: format that its layers are to be stored in, if any.
    """
    if not (folder / CONFIG).is_file():
        return sizes
    blocks = T5EncoderConfig.from_dict(read_json(folder / CONFIG)).num_layers
    table, layers = text_encoder_bytes(folder, dtype, precision)
    return replace(sizes, text=table + layers, text_blocks=blocks, text_rest=table)


def text_encoder_bytes(
    folder: Path, dtype: torch.dtype, precision: str | None = None
) -> tuple[int, int]:
    """Return the bytes of a text encoder in a folder: of its table of words, and of the rest.

    Args:
        folder: holds the weights, of which headers are read.
        dtype: it is to run in; see `text.t5.KEPT_IN_FLOAT32`.
        precision: format that its layers are to be stored in, if any.
    """
    stored = encoder_tensors(read_header(folder).tensors)
    table = next((stored[name] for name in (EMBEDDING, EMBEDDING_ALIAS) if name in stored), None)
    layers = 0.0
    for name, one in stored.items():
        is_matrix = len(one.shape) == 2 and name.endswith(WEIGHT)
        if name in (EMBEDDING, EMBEDDING_ALIAS, *UNUSED_NAMES) or name.endswith(NO_WEIGHTS):
            continue
        each: float = dtype.itemsize
        if is_matrix and one.dtype == torch.uint8:  # two numbers in a byte, which stay so
            each = 2 * BYTES_PER_NUMBER
        elif is_matrix and precision is not None and is_target(name[: -len(WEIGHT)], *one.shape):
            each = text_bytes(precision)
        elif name.endswith(kept_in_float32(dtype)):
            each = torch.float32.itemsize
        layers += one.num_elements * each
    return 0 if table is None else table.num_elements * dtype.itemsize, int(layers)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def _read_features(path: Path) -> StoredFeatures:
    file = read_tensors(path)
    return file.tensors, file.metadata


def _write_features(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    write_safetensors(path, tensors, metadata)
