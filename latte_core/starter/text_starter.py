"""Train the text starter from nothing and write it in Latte-1's file layout."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..training.export import write_json
from ..training.subject import read_text_encoder, read_vae
from ..version import __version__
from .autoencoder import normalize_latents, train_image_vae, train_temporal_vae
from .files import (
    extend_recipe,
    halve_transformer,
    write_card,
    write_digests,
    write_text_encoder,
    write_vae,
)
from .recipe import STARTER_CONFIG, TEXT_SETS, TEXT_STAGES, Stage
from .stages import run_stages, write_sets
from .text_encoder import train_text_encoder, write_tokenizer

logger = logging.getLogger("latte")

BASE_FOLDERS = ("vae", "vae_temporal_decoder", "tokenizer", "text_encoder")

CARD: dict[str, object] = {
    "name": "Latte starter",
    "license": "Apache-2.0",
    "num_steps": 20,
    "guidance_scale": 2.0,
    "sampler": "ddim",
    "num_frames": 16,
    "height": 64,
    "width": 64,
    "fps": 8,
    "prompts": "a [small|big] {red|green|blue|yellow|purple|white} {circle|square|triangle} "
    "{moving left|moving right|moving up|moving down|standing still} "
    "[on a {gray|navy|brown} background]",
    "data": "Clips drawn by latte_core/starter/drawing.py: one object or two of 10 to 28 pixels "
    "on a plain background, standing still or travelling 16 to 36 pixels in 16 frames at 64 x 64, "
    "captioned in many wordings; some have a colour or a shape that their caption leaves out. No "
    "picture or text of anybody else was used.",
}
SCHEDULER_CONFIG: dict[str, object] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 2e-2,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
MODEL_INDEX: dict[str, object] = {
    "_class_name": "LattePipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "LatteTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long each part is trained."""

    image_vae: int
    temporal_vae: int
    text_encoder: int
    stages: tuple[Stage, ...]

    def scaled(self, scale: float) -> Plan:
        """Return the plan with all step counts times `scale`, at least one of each."""

        def steps(count: int) -> int:
            return max(int(count * scale), 1)

        return Plan(
            image_vae=steps(self.image_vae),
            temporal_vae=steps(self.temporal_vae),
            text_encoder=steps(self.text_encoder),
            stages=tuple(stage.scaled(scale) for stage in self.stages),
        )


PLAN = Plan(image_vae=4000, temporal_vae=1200, text_encoder=2000, stages=TEXT_STAGES)


def train_base(folder: Path, work: Path, plan: Plan, seed: int) -> None:
    """Train and write what is around the transformer: autoencoders, tokenizer, text encoder."""
    tokenizer = write_tokenizer(folder / "tokenizer")
    encoder = train_text_encoder(tokenizer, plan.text_encoder, seed=seed)
    write_text_encoder(folder / "text_encoder", encoder)
    image_vae = train_image_vae(work, plan.image_vae, seed=seed)
    normalize_latents(image_vae, seed=seed)
    write_vae(folder / "vae", image_vae)
    temporal_vae = train_temporal_vae(work, image_vae, plan.temporal_vae, seed=seed)
    write_vae(folder / "vae_temporal_decoder", temporal_vae)


def copy_base(folder: Path, source: Path) -> None:
    """Take over autoencoders, tokenizer and text encoder of another starter."""
    for name in BASE_FOLDERS:
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)


def train_starter(
    folder: Path,
    work: Path,
    *,
    seed: int = 0,
    steps_scale: float = 1.0,
    base: Path | None = None,
    start_from: Path | None = None,
) -> None:
    """Train all parts, each resumable in `work`, and write the starter into `folder`.

    Args:
        folder: receives the model in Latte-1's layout.
        work: keeps the state of unfinished training.
        seed: of all random choices.
        steps_scale: multiplies all step counts, and below 1 the sizes of the data too; for a quick
            trial of the machinery.
        base: a starter whose autoencoders, tokenizer and text encoder are kept.
        start_from: a starter whose transformer is trained further too, in the last stage.
    """
    plan = PLAN.scaled(steps_scale)
    began = time.monotonic()
    logger.info("latte %s: training the starter into %s", __version__, folder.name)
    kept = start_from or base
    folder.mkdir(parents=True, exist_ok=True)
    if kept is None:
        train_base(folder, work, plan, seed)
    else:
        copy_base(folder, kept)
        plan = replace(plan, image_vae=0, temporal_vae=0, text_encoder=0)
    if start_from is not None:
        plan = replace(plan, stages=plan.stages[-1:])
    write_json(folder / "model_index.json", MODEL_INDEX)
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    wanted = {stage.data for stage in plan.stages}
    sets = write_sets(
        work,
        [one for one in TEXT_SETS if one.name in wanted],
        read_vae(folder / "vae", "cpu"),
        seed=seed,
        scale=steps_scale,
        text_encoder=read_text_encoder(folder / "text_encoder", "cpu"),
    )
    result = run_stages(
        work,
        plan.stages,
        sets,
        model=start_from or folder,
        architecture=STARTER_CONFIG.to_dict() if start_from is None else None,
        seed=seed,
    )
    halve_transformer(result / "transformer", folder / "transformer", {})
    write_card(folder, CARD, extend_recipe(start_from, recipe_of(plan, seed, began)))
    write_digests(folder)


def recipe_of(plan: Plan, seed: int, began: float) -> dict[str, Any]:
    """Return what a card says about a run."""
    minutes = round((time.monotonic() - began) / 60)
    return {"seed": seed, **asdict(plan), "minutes": minutes}
