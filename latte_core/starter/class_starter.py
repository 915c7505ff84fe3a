"""Train the class starter, a small class-conditional Latte, and write its folder."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

from ..config.latte import LatteConfig
from ..errors import IncompatibleInputsError
from ..files import read_json
from ..shipped import STARTER_FOLDER
from ..training.export import write_json
from ..training.subject import read_vae
from ..version import __version__
from .files import extend_recipe, halve_transformer, write_card, write_digests
from .recipe import CLASS_CONFIG, CLASS_NAMES, CLASS_SETS, CLASS_STAGES
from .stages import run_stages, write_sets

logger = logging.getLogger("latte")

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
    "data": "Clips drawn by latte_core/starter/drawing.py: one object of 14 to 22 pixels on a "
    "plain dark background, standing still or travelling 20 to 36 pixels in 16 frames at 64 x 64, "
    "labelled with its colour and shape. No picture of anybody else was used.",
}


def config_of_variant(variant: int) -> LatteConfig:
    """Return the class starter's config in one of the paper's four variants.

    As in the paper, variants 3 and 4 have fewer blocks, since each holds two attentions.
    """
    depth = CLASS_CONFIG.depth if variant < 3 else CLASS_CONFIG.depth - 1
    return replace(CLASS_CONFIG, variant=variant, depth=depth)


def train_class_starter(
    folder: Path,
    work: Path,
    *,
    seed: int = 0,
    steps_scale: float = 1.0,
    base: Path | None = None,
    start_from: Path | None = None,
    variant: int = 1,
) -> None:
    """Train the model, resumable in `work`, and write it into `folder`.

    Its latents are those of a text starter's image VAE, which is not copied.

    Args:
        folder: receives transformer/, classes.json, card.json and digests.json.
        work: keeps the state of unfinished training.
        seed: of all random choices.
        steps_scale: multiplies step counts and sizes of the data; below 1 for a quick trial.
        base: the text starter whose VAE is used; by default the one that is shipped.
        start_from: a class starter of the same variant that is trained further in the last
            stage, with a fresh optimizer.
        variant: 1 .. 4, which of the paper's transformers is trained; the starter is variant 1.

    Raises:
        IncompatibleInputsError: if `start_from` is of another variant.
    """
    config = config_of_variant(variant)
    if start_from is not None:
        require_variant(start_from, variant)
    stages = CLASS_STAGES if start_from is None else CLASS_STAGES[-1:]
    stages = tuple(stage.scaled(steps_scale) for stage in stages)
    began = time.monotonic()
    logger.info("latte %s: training the class starter into %s", __version__, folder.name)
    source = base or STARTER_FOLDER
    wanted = {stage.data for stage in stages}
    sets = write_sets(
        work,
        [one for one in CLASS_SETS if one.name in wanted],
        read_vae(source / "vae", "cpu"),
        seed=seed,
        scale=steps_scale,
        class_names=CLASS_NAMES,
    )
    result = run_stages(
        work,
        stages,
        sets,
        model=start_from or source,
        architecture=config.to_dict() if start_from is None else None,
        seed=seed,
    )
    # ComfyUI's own loader opens one file, so that the names are in it too.
    notes = {"_class_names": list(CLASS_NAMES)}
    halve_transformer(result / "transformer", folder / "transformer", notes)
    write_json(folder / "classes.json", list(CLASS_NAMES))
    minutes = round((time.monotonic() - began) / 60)
    recipe: dict[str, object] = {
        "seed": seed,
        "variant": variant,
        "stages": [asdict(stage) for stage in stages],
        "minutes": minutes,
    }
    write_card(folder, CARD, extend_recipe(start_from, recipe))
    write_digests(folder)


def require_variant(folder: Path, variant: int) -> None:
    """Refuse a class starter of another variant; 1 and 2 have the same names.

    Raises:
        IncompatibleInputsError: naming both.
    """
    found = read_json(folder / "transformer" / "config.json").get("variant", 1)
    if found != variant:
        raise IncompatibleInputsError(
            f"{folder.name} is a Latte of variant {found}, but variant {variant} is to be trained. "
            f"Ask for variant {found}, or start from another folder or from nothing."
        )
