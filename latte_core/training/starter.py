"""Train the starter model from nothing and write it in Latte-1's file layout."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..checkpoint.reader import read_tensors
from ..checkpoint.writer import write_safetensors
from .starter_clips import POOL_SIZE
from .starter_loop import Stage, StarterTrainer
from .starter_text import build_text_encoder, load_tokenizer, train_text_encoder, write_tokenizer
from .starter_transformer import STARTER_CONFIG, make_text_trainer
from .starter_vae import build_image_vae, normalize_latents, train_image_vae, train_temporal_vae

logger = logging.getLogger("latte")

SMALLEST_POOL = 16

CARD: dict[str, object] = {
    "name": "Latte starter",
    "license": "Apache-2.0",
    "num_steps": 20,
    "guidance_scale": 2.5,
    "sampler": "ddim",
    "num_frames": 16,
    "height": 64,
    "width": 64,
    "fps": 8,
    "prompts": "a {red|green|blue|yellow|purple|white} {circle|square|triangle} "
    "{moving left|moving right|moving up|moving down|standing still}",
    "data": "Clips drawn by latte_core/training/drawing.py: one object of 14 to 22 pixels on a "
    "plain dark background, travelling 20 to 36 pixels in 16 frames at 64 x 64, captioned in "
    "several wordings. No picture or text of anybody else was used.",
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


def write_json(path: Path, values: object) -> None:
    """Write indented JSON, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")


def half_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the state in float16, shared tensors once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict().items():
        if value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        tensors[name] = value.detach().to(torch.float16).contiguous()
    return tensors


def plain_config(config: Any) -> dict[str, Any]:
    """Return a library config as JSON values without bookkeeping keys."""
    values = (
        json.loads(config.to_json_string()) if hasattr(config, "to_json_string") else dict(config)
    )
    dropped = ("_name_or_path", "_use_default_values", "transformers_version", "_diffusers_version")
    return {key: value for key, value in values.items() if key not in dropped}


def write_vae(folder: Path, vae: Any) -> None:
    """Write an autoencoder folder."""
    config = {"_class_name": type(vae).__name__, **plain_config(vae.config)}
    write_json(folder / "config.json", config)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", half_weights(vae), {})


def write_networks(folder: Path, trainer: StarterTrainer) -> None:
    """Write transformer, text encoder and scheduler of a training run, averaged weights."""
    transformer = folder / "transformer"
    config = STARTER_CONFIG.to_dict()
    write_json(transformer / "config.json", config)
    network: Any = trainer.average
    tensors = half_weights(network.transformer)
    path = transformer / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, tensors, {"config": json.dumps(config)})
    encoder = network.text_encoder
    values = plain_config(encoder.config)
    write_json(folder / "text_encoder" / "config.json", values)
    write_safetensors(folder / "text_encoder" / "model.safetensors", half_weights(encoder), {})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    write_json(folder / "model_index.json", MODEL_INDEX)


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every file of the starter into digests.json."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "digests.json")
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    write_json(folder / "digests.json", digests)


def write_card(folder: Path, card: Mapping[str, object], recipe: Mapping[str, object]) -> None:
    """Write card.json: what a starter is, how to run it, and how it was made."""
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} CPU cores"
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    made = {"version": __version__, "machine": machine, "software": versions, **recipe}
    write_json(folder / "card.json", {**card, "recipe": made})


def add_scores(folder: Path, scores: Mapping[str, float]) -> None:
    """Put measured scores into card.json and bring digests.json up to date."""
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**card, "scores": dict(scores)})
    write_digests(folder)


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
            stages=tuple(replace(stage, num_steps=steps(stage.num_steps)) for stage in self.stages),
        )


PLAN = Plan(
    image_vae=1600,
    temporal_vae=300,
    text_encoder=600,
    stages=(
        Stage(num_steps=800, batch_size=96, num_frames=1, peak_rate=1e-3, spread=0.0),
        Stage(num_steps=400, batch_size=96, num_frames=1, peak_rate=1e-3, spread=0.5),
        Stage(num_steps=400, batch_size=16, peak_rate=1e-3, spread=0.5),
        Stage(num_steps=4000, batch_size=16, peak_rate=1e-3, decay=0.4, image_every=4),
    ),
)


def train_autoencoders(folder: Path, work: Path, plan: Plan, seed: int) -> Any:
    """Train and write both autoencoders and the tokenizer; return the image VAE."""
    image_vae = train_image_vae(work, plan.image_vae, seed=seed)
    normalize_latents(image_vae, seed=seed)
    write_vae(folder / "vae", image_vae)
    temporal_vae = train_temporal_vae(work, image_vae, plan.temporal_vae, seed=seed)
    write_vae(folder / "vae_temporal_decoder", temporal_vae)
    write_tokenizer(folder / "tokenizer")
    return image_vae


def load_image_vae(source: Path) -> Any:
    """Open the image autoencoder of a starter."""
    image_vae = build_image_vae()
    image_vae.load_state_dict(read_tensors(source / "vae").tensors)
    return image_vae


def load_text_encoder(source: Path, tokenizer: Any) -> Any:
    """Open the text encoder of a starter."""
    tensors = read_tensors(source / "text_encoder").tensors
    encoder = build_text_encoder(tokenizer)
    encoder.load_state_dict({"encoder.embed_tokens.weight": tensors["shared.weight"], **tensors})
    return encoder


def copy_autoencoders(folder: Path, source: Path) -> Any:
    """Take over autoencoders and tokenizer of another starter; return the image VAE."""
    for name in ("vae", "vae_temporal_decoder", "tokenizer"):
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    return load_image_vae(source)


def train_starter(
    folder: Path,
    work: Path,
    *,
    seed: int = 0,
    steps_scale: float = 1.0,
    start_from: Path | None = None,
    keep_transformer: bool = True,
) -> None:
    """Train all parts, each resumable in `work`, and write the starter into `folder`.

    Args:
        folder: receives the model in Latte-1's layout.
        work: keeps the state of unfinished training.
        seed: of all random choices.
        steps_scale: multiplies all step counts; below 1 for a quick trial of the machinery.
        start_from: a starter whose autoencoders and tokenizer are kept.
        keep_transformer: also keep that starter's text encoder, and train its transformer further
            in the last stage, with a fresh optimizer; else both are trained from nothing.
    """
    plan = PLAN.scaled(steps_scale)
    began = time.monotonic()
    logger.info("latte %s: training the starter into %s", __version__, folder.name)
    if start_from is None:
        image_vae = train_autoencoders(folder, work, plan, seed)
    else:
        image_vae = copy_autoencoders(folder, start_from)
        plan = replace(plan, image_vae=0, temporal_vae=0)
    tokenizer = load_tokenizer(folder / "tokenizer")
    transformer: Mapping[str, Tensor] | None = None
    if start_from is not None and keep_transformer:
        plan = replace(plan, text_encoder=0, stages=plan.stages[-1:])
        encoder = load_text_encoder(start_from, tokenizer)
        transformer = read_tensors(start_from / "transformer").tensors
    else:
        encoder = train_text_encoder(tokenizer, plan.text_encoder, seed=seed)
    trainer = make_text_trainer(
        image_vae,
        tokenizer,
        encoder,
        plan.stages,
        seed=seed,
        pool_size=max(int(POOL_SIZE * min(steps_scale, 1.0)), SMALLEST_POOL),
        start_from=transformer,
    )
    trainer.run(work / "transformer.pt")
    write_networks(folder, trainer)
    minutes = round((time.monotonic() - began) / 60)
    recipe: dict[str, object] = {"seed": seed, **asdict(plan), "minutes": minutes}
    write_card(folder, CARD, extend_recipe(start_from, recipe))
    write_digests(folder)


def extend_recipe(start_from: Path | None, run: Mapping[str, object]) -> dict[str, object]:
    """Return the runs that made a starter, those of the one it started from included."""
    if start_from is None:
        return {"runs": [dict(run)]}
    card = json.loads((start_from / "card.json").read_text(encoding="utf-8"))
    return {**card["recipe"], "runs": [*card["recipe"]["runs"], dict(run)]}
