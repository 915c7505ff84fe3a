"""Prepared sets of drawn clips, which the starters are trained on."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.sets import LatentSetWriter
from ..data.sets.format import SET_FILE
from ..text.t5 import TextEncoder
from ..vae.frames import VideoVAE
from .drawing import CLIP_SIDE, ClipSpec, draw_clips, make_caption

ENCODED_AT_ONCE = 16
FRAMES_AT_ONCE = 16  # more do not fit a processor's cache: a third of the speed
CAPTIONS_PER_CLIP = 4
CLIPS_PER_SHARD = 512

logger = logging.getLogger("latte")

MakeSpec = Callable[[random.Random], ClipSpec]


def class_of_clip(spec: ClipSpec) -> str:
    """Return the class that a clip of one object is of."""
    return f"{spec.color} {spec.shape}"


def write_drawn_set(
    folder: Path,
    vae: VideoVAE,
    make_spec: MakeSpec,
    count: int,
    *,
    seed: int,
    text_encoder: TextEncoder | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Draw clips and write them as a prepared set; a whole one that is there is kept.

    Args:
        folder: of the set.
        vae: encodes the frames.
        make_spec: draws what a clip shows.
        count: clips.
        seed: of all that is drawn.
        text_encoder: reads captions, several for each clip; without it clips have classes.
        class_names: of all classes, in the order of labels.
    """
    if (folder / SET_FILE).is_file():
        return folder
    logger.info("Drawing %d clips into %s.", count, folder.name)
    side = CLIP_SIDE // 8
    vae.module.to(memory_format=torch.channels_last)
    writer = LatentSetWriter(
        folder,
        latent_height=side,
        latent_width=side,
        scaling_factor=vae.scaling_factor,
        model="starter",
        class_names=class_names,
        text_width=None if text_encoder is None else text_encoder.width,
        layout="drawn",
        clips_per_shard=CLIPS_PER_SHARD,
    )
    for first in range(0, count, ENCODED_AT_ONCE):
        numbers = [
            k for k in range(first, min(first + ENCODED_AT_ONCE, count)) if name_of(k) not in writer
        ]
        draws = [random.Random(f"{seed}-clip-{k}") for k in numbers]
        specs = [make_spec(rng) for rng in draws]
        latents: Sequence[Tensor] = encode(vae, specs) if specs else ()
        for k, rng, spec, clip in zip(numbers, draws, specs, latents, strict=True):
            captions = [make_caption(spec, rng) for _ in range(CAPTIONS_PER_CLIP)]
            writer.add(
                clip.transpose(0, 1),
                captions=tuple(dict.fromkeys(captions)) if text_encoder is not None else (),
                class_name=class_of_clip(spec) if class_names else None,
                name=name_of(k),
            )
    if text_encoder is not None:
        writer.add_texts(reader_of(text_encoder))
    writer.finish()
    return folder


def name_of(number: int) -> str:
    """Return what drawn clip `number` is called."""
    return f"clip-{number:06d}"


@torch.no_grad()
def encode(vae: VideoVAE, specs: Sequence[ClipSpec]) -> Sequence[Tensor]:
    """Return the latents of drawn clips, (4, F, h, w) each."""
    frames = draw_clips(specs).movedim(2, -1)  # N F H W 3
    return list(vae.encode(frames, chunk=FRAMES_AT_ONCE))


def reader_of(text_encoder: TextEncoder) -> Callable[[Sequence[str]], list[Tensor]]:
    """Return a function from captions to the features of their real tokens, (n, C) each."""

    def read(captions: Sequence[str]) -> list[Tensor]:
        features = text_encoder.encode(list(captions))
        pairs = zip(features.embeds, features.mask, strict=True)
        return [rows[: int(mask.sum())] for rows, mask in pairs]

    return read
