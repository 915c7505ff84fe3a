"""The sizes of a model's parts, and whether a run has room, with a cache or without."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..acceleration.settings import CacheSettings
from ..checkpoint.reading.reader import read_header
from ..errors import IncompatibleInputsError
from ..memory import PRESETS, RESIDENT, PartSizes, all_bytes, block_groups, stage_bytes
from ..memory.estimate import GB
from ..memory.room import RunBytes, check_room
from ..precision.layers import layer_dtype
from ..types import PIXELS_PER_CELL, VideoShape
from .parts import CommonParts

GUIDED = 2  # videos of a call under guidance

logger = logging.getLogger("latte")


def part_sizes(
    transformer: nn.Module,
    *,
    vae_folders: Iterable[Path],
    dtype: torch.dtype,
    num_frames: int,
    height: int,
    width: int,
    videos: int = GUIDED,
    cache: CacheSettings | None = None,
) -> PartSizes:
    """Return what `memory.choose_plan` goes by, for a model without a text encoder.

    Args:
        transformer: a LatteT2V or Latte.
        vae_folders: those there may be; the largest counts, by its header.
        dtype: of all weights.
        num_frames, height, width: of the videos it was made for, in pixels.
        videos: of a call.
        cache: of a run.
    """
    config: Any = transformer.config
    size = dtype.itemsize
    cells = (height // PIXELS_PER_CELL) * (width // PIXELS_PER_CELL)
    tokens = videos * num_frames * cells // config.patch_size**2
    return PartSizes(
        text=0,
        transformer=sum(one.numel() * one.element_size() for one in transformer.parameters()),
        vae=max((_num_elements(one) * size for one in vae_folders if one.is_dir()), default=0),
        text_blocks=1,
        transformer_blocks=len(block_groups(transformer)),
        text_rest=0,
        tokens=tokens,
        width=config.hidden_size,
        itemsize=size,
        num_frames=num_frames,
        height=height,
        frame_width=width,
        kept=0 if cache is None else cache.kept_bytes(transformer, tokens, size),
    )


def check_room_for_run(
    parts: CommonParts, shape: VideoShape, videos: int, *, is_drawn: bool, is_decoded: bool
) -> None:
    """Refuse videos that the machine cannot hold, before anything is allocated for them (R22).

    Args:
        parts: of the pipeline.
        shape: of the videos.
        videos: of one call of the transformer.
        is_drawn: whether start noise is to be drawn.
        is_decoded: whether frames are to be made.

    Raises:
        IncompatibleInputsError: with what they would take and what there is.
    """
    config: Any = parts.transformer.config
    token = config.hidden_size * layer_dtype(parts.transformer).itemsize
    needed = RunBytes.of(
        shape,
        token_bytes=token // config.patch_size**2,
        videos=videos,
        is_drawn=is_drawn,
        is_decoded=is_decoded,
    )
    check_room(shape, needed, _device_of(parts))


def check_room_for_cache(
    cache: CacheSettings | None, parts: CommonParts, shape: VideoShape, videos: int
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
    weight = _convolution(transformer)
    room = all_bytes(_device_of(parts))
    kept = None if cache is None else cache.kind.kept
    if cache is None or kept is None or room is None:
        return
    sizes = part_sizes(
        transformer,
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


def _convolution(transformer: nn.Module) -> nn.Parameter:
    """Return a weight that every precision leaves as it is."""
    return next(one for one in transformer.parameters() if one.ndim > 2)


def _device_of(parts: CommonParts) -> torch.device:
    """Return where the transformer works."""
    stages = parts.stages
    if stages.plan.transformer == RESIDENT:
        return _convolution(parts.transformer).device
    return stages.device


def _num_elements(folder: Path) -> int:
    return sum(info.num_elements for info in read_header(folder).tensors.values())
