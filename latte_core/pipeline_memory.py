"""What a model's folder says about the memory it needs, and the cache of its prompts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint.reader import read_header, read_tensors
from .checkpoint.writer import write_safetensors
from .errors import InvalidInputError
from .files import cache_folder
from .memory import PartSizes, block_groups
from .parts import read_json
from .precision.quantize import text_bytes
from .text.cache import EmbeddingCache
from .text.config import T5EncoderConfig
from .text.fingerprint import fingerprint
from .text.four_bits import BYTES_PER_NUMBER
from .text.names import IN_MEMORY, OFF, ON_DISK
from .text.store import EmbeddingStore, StoredFeatures
from .types import PIXELS_PER_CELL

STORE_FOLDER = "embeddings"
GUIDED = 2  # videos of a call under guidance
CONFIG = "config.json"


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


def part_sizes(
    transformer: nn.Module,
    *,
    text_folder: Path | None,
    vae_folders: Iterable[Path],
    dtype: torch.dtype,
    text_precision: str | None = None,
    num_frames: int,
    height: int,
    width: int,
) -> PartSizes:
    """Return what `memory.choose_plan` goes by, from a loaded transformer and headers of the rest.

    Args:
        transformer: a LatteT2V or Latte.
        text_folder: of the text encoder; None, or one that is missing, counts nothing.
        vae_folders: those there may be; the largest counts.
        dtype: of all weights.
        text_precision: format that the text encoder's layers are to be stored in, if any.
        num_frames, height, width: of the videos it was made for, in pixels.
    """
    config: Any = transformer.config
    size, blocks, rest = dtype.itemsize, 1, 0
    text = 0
    if text_folder is not None and (text_folder / CONFIG).is_file():
        shape = T5EncoderConfig.from_dict(read_json(text_folder / CONFIG))
        blocks, rest = shape.num_layers, shape.vocab_size * shape.d_model * size
        text = rest + _layer_bytes(text_folder, shape, text_precision, size)
    cells = (height // PIXELS_PER_CELL) * (width // PIXELS_PER_CELL)
    return PartSizes(
        text=text,
        transformer=sum(one.numel() * one.element_size() for one in transformer.parameters()),
        vae=max((_num_elements(one) * size for one in vae_folders if one.is_dir()), default=0),
        text_blocks=blocks,
        transformer_blocks=len(block_groups(transformer)),
        text_rest=min(rest, text),
        tokens=GUIDED * num_frames * cells // config.patch_size**2,
        width=config.hidden_size,
        itemsize=size,
        num_frames=num_frames,
        height=height,
        frame_width=width,
    )


def _num_elements(folder: Path) -> int:
    return sum(info.num_elements for info in read_header(folder).tensors.values())


def _layer_bytes(folder: Path, shape: T5EncoderConfig, precision: str | None, size: int) -> int:
    """Return the bytes of a text encoder's weights without its table of words."""
    found = read_header(folder).tensors.values()
    packed = sum(
        one.num_elements for one in found if one.dtype == torch.uint8 and len(one.shape) == 2
    )
    if packed:  # layers in four bits stay as they are
        return int(packed * 2 * BYTES_PER_NUMBER)
    each = size if precision is None else text_bytes(precision)
    words = (shape.vocab_size, shape.d_model)
    return int(sum(one.num_elements for one in found if one.shape != words) * each)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def _read_features(path: Path) -> StoredFeatures:
    file = read_tensors(path)
    return file.tensors, file.metadata


def _write_features(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    write_safetensors(path, tensors, metadata)
