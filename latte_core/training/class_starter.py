"""Train the class starter, a small class-conditional Latte, and write its folder."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.reader import read_tensors
from ..checkpoint.writer import write_safetensors
from .starter import (
    SMALLEST_POOL,
    extend_recipe,
    half_weights,
    load_image_vae,
    write_card,
    write_digests,
    write_json,
)
from .starter_class import CLASS_CONFIG, CLASS_NAMES, make_class_trainer
from .starter_clips import POOL_SIZE
from .starter_loop import Stage, StarterTrainer

logger = logging.getLogger("latte")

STARTER_ASSETS = Path(__file__).parents[1] / "assets" / "starter"
STAGES = (
    Stage(num_steps=300, batch_size=16, peak_rate=1e-3, spread=0.5),
    Stage(num_steps=3200, batch_size=16, peak_rate=1e-3, decay=0.4),
)

CARD: dict[str, object] = {
    "name": "Latte class starter",
    "license": "Apache-2.0",
    "method": "ddim",
    "steps": "20",
    "guidance_scale": 2.0,
    "num_frames": 16,
    "height": 64,
    "width": 64,
    "fps": 8,
    "vae": "starter",
    "classes": "{red|green|blue|yellow|purple|white} {circle|square|triangle}, 18 in all",
    "data": "Clips drawn by latte_core/training/drawing.py: one object of 14 to 22 pixels on a "
    "plain dark background, standing still or travelling 20 to 36 pixels in 16 frames at 64 x 64, "
    "labelled with its colour and shape. No picture of anybody else was used.",
}


def train_class_starter(
    folder: Path,
    work: Path,
    *,
    seed: int = 0,
    steps_scale: float = 1.0,
    start_from: Path | None = None,
) -> None:
    """Train the model, resumable in `work`, and write it into `folder`.

    Its latents are those of the text starter's image VAE, which is not copied.

    Args:
        folder: receives transformer/, classes.json, card.json and digests.json.
        work: keeps the state of unfinished training.
        seed: of all random choices.
        steps_scale: multiplies the step count; below 1 for a quick trial of the machinery.
        start_from: a class starter that is trained further, with a fresh optimizer.
    """
    stages = tuple(
        replace(stage, num_steps=max(int(stage.num_steps * steps_scale), 1)) for stage in STAGES
    )
    began = time.monotonic()
    logger.info("latte %s: training the class starter into %s", __version__, folder.name)
    trainer = make_class_trainer(
        load_image_vae(STARTER_ASSETS),
        stages,
        seed=seed,
        pool_size=max(int(POOL_SIZE * min(steps_scale, 1.0)), SMALLEST_POOL),
        start_from=None if start_from is None else read_tensors(start_from / "transformer").tensors,
    )
    trainer.run(work / "class_transformer.pt")
    write_class_model(folder, trainer)
    minutes = round((time.monotonic() - began) / 60)
    recipe: dict[str, object] = {
        "seed": seed,
        "stages": [asdict(stage) for stage in stages],
        "minutes": minutes,
    }
    write_card(folder, CARD, extend_recipe(start_from, recipe))
    write_digests(folder)


def write_class_model(folder: Path, trainer: StarterTrainer) -> None:
    """Write the averaged weights, the config and the names of the classes."""
    config = CLASS_CONFIG.to_dict()
    network: Any = trainer.average
    transformer = folder / "transformer"
    write_json(transformer / "config.json", config)
    write_safetensors(
        transformer / "diffusion_pytorch_model.safetensors",
        half_weights(network.transformer),
        {"config": json.dumps(config)},
    )
    write_json(folder / "classes.json", list(CLASS_NAMES))
