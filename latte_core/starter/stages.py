"""Run the stages of a starter's training, each an ordinary run that starts from the one before."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..text.t5 import TextEncoder
from ..training.run import train
from ..training.train_config import TrainConfig
from ..vae.frames import VideoVAE
from .recipe import COMMON, DrawnSet, Stage
from .scenes import ClipSpec, make_clip_spec
from .sets import MakeSpec, write_drawn_set

SMALLEST_SET = 16

logger = logging.getLogger("latte")


def draws_of(wanted: DrawnSet) -> MakeSpec:
    """Return the function that draws the clips of a set."""

    def make(rng: random.Random) -> ClipSpec:
        return make_clip_spec(
            rng,
            mixture=wanted.mixture,
            allow_held_out=wanted.allow_held_out,
            spread=wanted.spread,
        )

    return make


def write_sets(
    work: Path,
    sets: Sequence[DrawnSet],
    vae: VideoVAE,
    *,
    seed: int,
    scale: float,
    text_encoder: TextEncoder | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Path]:
    """Write the sets of a recipe and return their folders by name; whole ones are kept."""
    found: dict[str, Path] = {}
    for one in sets:
        found[one.name] = write_drawn_set(
            work / "sets" / one.name,
            vae,
            draws_of(one),
            max(int(one.count * min(scale, 1.0)), SMALLEST_SET),
            seed=seed,
            text_encoder=text_encoder,
            class_names=class_names,
        )
    return found


def run_stages(
    work: Path,
    stages: Sequence[Stage],
    sets: Mapping[str, Path],
    *,
    model: Path,
    architecture: Mapping[str, Any] | None,
    seed: int,
    device: str | None = None,
) -> Path:
    """Run all stages and return the result of the last; finished stages are not run again.

    Args:
        work: receives stage-0, stage-1 ...
        stages: in order.
        sets: prepared sets by name.
        model: whose text encoder and VAE are used, and, without `architecture`, whose transformer
            is trained further.
        architecture: config of a new transformer.
        seed: of the first stage; later ones count up.
        device: see `train`.
    """
    for number, stage in enumerate(stages):
        values: dict[str, Any] = {
            **COMMON,
            **stage.settings,
            "data": [str(sets[stage.data])],
            "output": str(work / f"stage-{number}"),
            "model": str(model),
            "seed": seed + number,
        }
        if architecture is not None and number == 0:
            values |= {"architecture": dict(architecture), "pass_through": True}
        logger.info("Stage %d of %d.", number + 1, len(stages))
        model = train(TrainConfig.from_dict(values), device=device, on_report=log_report)
    return model


def log_report(report: Any) -> None:
    """Log the losses."""
    logger.info(
        "step %d loss %.4f noise %.4f variance %.4f, %.1f clips/s",
        report.step,
        report.loss,
        report.squared,
        report.variational,
        report.clips_per_second,
    )
