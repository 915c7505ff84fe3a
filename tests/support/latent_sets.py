"""Prepared sets of a few random clips, whose numbers and text features are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latte_core.data import LatentSet, LatentSetWriter

WIDTH = 6
SETTINGS: dict[str, Any] = {
    "latent_height": 3,
    "latent_width": 5,
    "scaling_factor": 0.18215,
    "model": "tiny",
    "dtype": "float32",
}


def latents(num_frames: int, seed: int = 0) -> Tensor:
    """Return the random latents of a clip, (frames, 4, 3, 5)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((num_frames, 4, 3, 5), generator=generator)


def features(texts: Sequence[str]) -> list[Tensor]:
    """Return rows that a text alone decides: one for each word, and one for the end."""
    rows: list[Tensor] = []
    for text in texts:
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        rows.append(torch.randn((len(text.split()) + 1, WIDTH), generator=generator))
    return rows


def write_set(folder: Path, num_clips: int = 7, **changes: Any) -> LatentSet:
    """Write clips of 2, 3 ... frames, some with captions, three to a file."""
    writer = LatentSetWriter(
        folder, **{**SETTINGS, "text_width": WIDTH, **changes}, clips_per_shard=3
    )
    for index in range(num_clips):
        captions = [f"clip {index}", "a clip"][: index % 3]
        writer.add(latents(index + 2, index), name=f"{index}.mp4", captions=captions)
    writer.add_texts(features, empty_rows=torch.full((120, WIDTH), 0.5))
    return writer.finish()
