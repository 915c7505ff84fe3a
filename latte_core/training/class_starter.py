"""Train the class starter, a small class-conditional Latte, and write its folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..checkpoint.reader import read_tensors
from ..checkpoint.writer import write_safetensors
from ..errors import IncompatibleInputsError
from ..latte_config import LatteConfig
from ..parts import read_json
from .starter import (
    SMALLEST_POOL,
    extend_recipe,
    half_weights,
    load_image_vae,
    write_card,
    write_digests,
    write_json,
)
from .starter_class import CLASS_NAMES, config_of_variant, make_class_trainer
from .starter_clips import POOL_SIZE
from .starter_loop import Stage, StarterTrainer

logger = logging.getLogger("latte")

STARTER_ASSETS = Path(__file__).parents[1] / "assets" / "starter"
STAGES = (
    Stage(num_steps=300, batch_size=16, peak_rate=1e-3, spread=0.5),
    Stage(num_steps=6000, batch_size=16, peak_rate=1e-3, decay=0.5),
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
    variant: int = 1,
) -> None:
    """Train the model, resumable in `work`, and write it into `folder`.

    Its latents are those of the text starter's image VAE, which is not copied.

    Args:
        folder: receives transformer/, classes.json, card.json and digests.json.
        work: keeps the state of unfinished training.
        seed: of all random choices.
        steps_scale: multiplies the step count; below 1 for a quick trial of the machinery.
        start_from: a class starter of the same variant that is trained further in the last
            stage, with a fresh optimizer.
        variant: 1 .. 4, which of the paper's transformers is trained; the starter is variant 1.

    Raises:
        IncompatibleInputsError: if `start_from` is of another variant.
    """
    config = config_of_variant(variant)
    transformer: Mapping[str, Tensor] | None = None
    if start_from is not None:
        transformer = weights_of_variant(start_from, variant)
    stages = tuple(
        replace(stage, num_steps=max(int(stage.num_steps * steps_scale), 1))
        for stage in (STAGES if start_from is None else STAGES[-1:])
    )
    began = time.monotonic()
    logger.info("latte %s: training the class starter into %s", __version__, folder.name)
    trainer = make_class_trainer(
        load_image_vae(STARTER_ASSETS),
        stages,
        seed=seed,
        config=config,
        pool_size=max(int(POOL_SIZE * min(steps_scale, 1.0)), SMALLEST_POOL),
        start_from=transformer,
    )
    trainer.run(work / "class_transformer.pt")
    write_class_model(folder, trainer, config)
    minutes = round((time.monotonic() - began) / 60)
    recipe: dict[str, object] = {
        "seed": seed,
        "variant": variant,
        "stages": [asdict(stage) for stage in stages],
        "minutes": minutes,
    }
    write_card(folder, CARD, extend_recipe(start_from, recipe))
    write_digests(folder)


def weights_of_variant(folder: Path, variant: int) -> Mapping[str, Tensor]:
    """Read the weights of a class starter.

    Raises:
        IncompatibleInputsError: if it is of another variant; variants 1 and 2 have the same names.
    """
    found = read_json(folder / "transformer" / "config.json").get("variant", 1)
    if found != variant:
        raise IncompatibleInputsError(
            f"{folder.name} is a Latte of variant {found}, but variant {variant} is to be trained. "
            f"Ask for variant {found}, or start from another folder or from nothing."
        )
    return read_tensors(folder / "transformer").tensors


def write_class_model(folder: Path, trainer: StarterTrainer, config: LatteConfig) -> None:
    """Write the averaged weights, the config and the names of the classes."""
    values = config.to_dict()
    named = {**values, "_class_names": list(CLASS_NAMES)}  # ComfyUI's own loader opens one file
    network: Any = trainer.average
    transformer = folder / "transformer"
    write_json(transformer / "config.json", values)
    write_safetensors(
        transformer / "diffusion_pytorch_model.safetensors",
        half_weights(network.transformer),
        {"config": json.dumps(named)},
    )
    write_json(folder / "classes.json", list(CLASS_NAMES))
