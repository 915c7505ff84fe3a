"""What a model's folder says about the memory it needs, and the cache of its prompts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..acceleration.settings import CacheSettings
from ..checkpoint.reading.reader import read_header, read_tensors
from ..checkpoint.writing.writer import write_safetensors
from ..errors import IncompatibleInputsError, InvalidInputError
from ..files import cache_folder, read_json
from ..memory import PRESETS, RESIDENT, PartSizes, Stages, all_bytes, block_groups, stage_bytes
from ..memory.estimate import GB
from ..precision.layers import is_target
from ..precision.quantize import text_bytes
from ..text.cache import EmbeddingCache
from ..text.config import T5EncoderConfig
from ..text.fingerprint import fingerprint
from ..text.four_bits import BYTES_PER_NUMBER
from ..text.layouts import SCALE_ENDINGS, UNUSED_ENDINGS, UNUSED_NAMES, WEIGHT, encoder_tensors
from ..text.names import IN_MEMORY, OFF, ON_DISK
from ..text.store import EmbeddingStore, StoredFeatures
from ..text.t5 import EMBEDDING, EMBEDDING_ALIAS, kept_in_float32
from ..types import PIXELS_PER_CELL, VideoShape

STORE_FOLDER = "embeddings"
GUIDED = 2  # videos of a call under guidance
CONFIG = "config.json"
NO_WEIGHTS = SCALE_ENDINGS + UNUSED_ENDINGS

logger = logging.getLogger("latte")


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
    videos: int = GUIDED,
    cache: CacheSettings | None = None,
) -> PartSizes:
    """Return what `memory.choose_plan` goes by, from a loaded transformer and headers of the rest.

    Args:
        transformer: a LatteT2V or Latte.
        text_folder: of the text encoder; None, or one that is missing, counts nothing.
        vae_folders: those there may be; the largest counts.
        dtype: of all weights.
        text_precision: format that the text encoder's layers are to be stored in, if any.
        num_frames, height, width: of the videos it was made for, in pixels.
        videos: of a call.
        cache: of a run.
    """
    config: Any = transformer.config
    size, blocks, rest, layers = dtype.itemsize, 1, 0, 0
    if text_folder is not None and (text_folder / CONFIG).is_file():
        blocks = T5EncoderConfig.from_dict(read_json(text_folder / CONFIG)).num_layers
        rest, layers = text_encoder_bytes(text_folder, dtype, text_precision)
    cells = (height // PIXELS_PER_CELL) * (width // PIXELS_PER_CELL)
    tokens = videos * num_frames * cells // config.patch_size**2
    return PartSizes(
        text=rest + layers,
        transformer=sum(one.numel() * one.element_size() for one in transformer.parameters()),
        vae=max((_num_elements(one) * size for one in vae_folders if one.is_dir()), default=0),
        text_blocks=blocks,
        transformer_blocks=len(block_groups(transformer)),
        text_rest=rest,
        tokens=tokens,
        width=config.hidden_size,
        itemsize=size,
        num_frames=num_frames,
        height=height,
        frame_width=width,
        kept=0 if cache is None else cache.kept_bytes(transformer, tokens, size),
    )


class Working(Protocol):
    """The parts of any pipeline that matter while it samples."""

    @property
    def transformer(self) -> nn.Module:
        """A LatteT2V or Latte."""
        ...

    @property
    def stages(self) -> Stages:
        """Where its weights are while it works."""
        ...


def check_room_for_cache(
    cache: CacheSettings | None, parts: Working, shape: VideoShape, videos: int
) -> None:
    """Refuse a cache whose memory the device cannot have, and warn of one that may not fit.

    Args:
        cache: of the run to come.
        parts: of the pipeline.
        shape: of the videos.
        videos: of one call of the transformer.

    Raises:
        IncompatibleInputsError: if weights and what is kept are more than there is.
    """
    transformer, stages = parts.transformer, parts.stages
    weight = next(one for one in transformer.parameters() if one.ndim > 2)
    device = weight.device if stages.plan.transformer == RESIDENT else stages.device
    room = all_bytes(device)
    kept = None if cache is None else cache.kind.kept
    if cache is None or kept is None or room is None:
        return
    sizes = part_sizes(
        transformer,
        text_folder=None,
        vae_folders=[],
        dtype=weight.dtype,
        num_frames=shape.num_frames,
        height=shape.height,
        width=shape.width,
        videos=videos,
        cache=cache,
    )
    needed = stage_bytes(stages.plan, sizes)["sampling"]
    if not sizes.kept or needed <= room:
        return
    others = [plan for plan in PRESETS.values() if stage_bytes(plan, sizes)["sampling"] <= room]
    way = f"Use the memory preset {others[0].name}" if others else "Ask for fewer frames"
    sentence = (
        f"The cache {cache.describe()} keeps {sizes.kept / GB:.1f} GB of {kept.what}, so that "
        f"about {needed / GB:.1f} GB are needed for sampling, but the device has "
        f"{room / GB:.1f} GB. {way}, {kept.less}, or take a cache that keeps "
        "little, such as balanced."
    )
    if stage_bytes(stages.plan, replace(sizes, tokens=0))["sampling"] > room:
        raise IncompatibleInputsError(sentence)
    logger.warning(sentence)


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


def _num_elements(folder: Path) -> int:
    return sum(info.num_elements for info in read_header(folder).tensors.values())


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def _read_features(path: Path) -> StoredFeatures:
    file = read_tensors(path)
    return file.tensors, file.metadata


def _write_features(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    write_safetensors(path, tensors, metadata)
