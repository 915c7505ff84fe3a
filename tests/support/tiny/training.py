"""Tiny models and prepared sets for tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from latte_core.data.sets import LatentSet, LatentSetWriter
from latte_core.training.train_config import TrainConfig

TEXT_WIDTH = 12
SIDE = 4  # cells
TEXT_MODEL: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": TEXT_WIDTH,
    "sample_size": SIDE,
}
CLASS_MODEL: dict[str, Any] = {
    "input_size": SIDE,
    "hidden_size": 32,
    "depth": 4,
    "num_heads": 2,
    "num_frames": 4,
    "conditioning": "class",
    "num_classes": 3,
}
PLAIN_MODEL: dict[str, Any] = {
    **{key: value for key, value in CLASS_MODEL.items() if key != "num_classes"},
    "conditioning": "none",
}


def write_set(
    folder: Path,
    *,
    num_clips: int = 10,
    lengths: Sequence[int] = (7, 5, 9),
    has_text: bool = True,
    class_names: Sequence[str] = ("ant", "bee", "cat"),
    has_std: bool = False,
    has_flips: bool = False,
) -> LatentSet:
    """Write a set of random latents, 4 x 6 cells, with two captions for each clip."""
    generator = torch.Generator().manual_seed(7)

    def draw(length: int) -> torch.Tensor:
        return torch.randn((length, 4, SIDE, SIDE + 2), generator=generator)

    writer = LatentSetWriter(
        folder,
        latent_height=SIDE,
        latent_width=SIDE + 2,
        scaling_factor=0.18215,
        model="tiny",
        class_names=class_names,
        text_width=TEXT_WIDTH if has_text else None,
        has_std=has_std,
        has_flips=has_flips,
        dtype="float32",
    )
    for k in range(num_clips):
        length = lengths[k % len(lengths)]
        writer.add(
            draw(length),
            draw(length).abs() if has_std else None,
            captions=(f"clip {k}", f"number {k}") if has_text else (),
            class_name=class_names[k % len(class_names)] if class_names else None,
            name=f"clip-{k}",
            flipped_mean=draw(length) if has_flips else None,
            flipped_std=draw(length).abs() if has_flips and has_std else None,
        )
    if has_text:
        rows = torch.randn((120, TEXT_WIDTH), generator=generator)
        writer.add_texts(lambda texts: [features_of(text) for text in texts], empty_rows=rows)
    return writer.finish()


def features_of(text: str) -> torch.Tensor:
    """Return made-up features of a caption: as many rows as it has letters, one at least."""
    generator = torch.Generator().manual_seed(sum(text.encode()))
    return torch.randn((max(len(text), 1), TEXT_WIDTH), generator=generator)


def tiny_config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a config for a short run of the tiny text model."""
    values: dict[str, Any] = {
        "data": [str(data)],
        "output": str(output),
        "model": "starter",
        "architecture": TEXT_MODEL,
        "num_frames": 4,
        "interval": 1,
        "num_steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "clip_from": 0,
        "ema_decay": 0.9,
        "log_every": 2,
        "save_every": 2,
        **changes,
    }
    return TrainConfig.from_dict(values)
