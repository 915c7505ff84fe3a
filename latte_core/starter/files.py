"""The files of a starter: half-precision weights, its card and the digests of everything."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.reading.reader import read_tensors
from ..checkpoint.writing.writer import write_safetensors
from ..files import read_json
from ..training.export import write_json
from ..version import __version__

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
CARD_NAME = "card.json"


def half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in float16, shared ones once."""
    halved: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        if value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        halved[name] = value.detach().to(torch.float16).contiguous()
    return halved


def half_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module in float16, shared tensors once."""
    return half(module.state_dict())


def plain_config(config: Any) -> dict[str, Any]:
    """Return a library config as JSON values without bookkeeping keys."""
    values = (
        json.loads(config.to_json_string()) if hasattr(config, "to_json_string") else dict(config)
    )
    dropped = ("_name_or_path", "_use_default_values", "transformers_version", "_diffusers_version")
    return {key: value for key, value in values.items() if key not in dropped}


def write_vae(folder: Path, vae: Any) -> None:
    """Write an autoencoder folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": type(vae).__name__, **plain_config(vae.config)}
    write_json(folder / "config.json", config)
    write_safetensors(folder / WEIGHTS_NAME, half_weights(vae), {})


def write_text_encoder(folder: Path, encoder: Any) -> None:
    """Write a text encoder's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", plain_config(encoder.config))
    write_safetensors(folder / "model.safetensors", half_weights(encoder), {})


def halve_transformer(source: Path, folder: Path, notes: Mapping[str, object]) -> None:
    """Write the transformer of a run's result in half precision.

    Args:
        source: the result's transformer folder.
        folder: receives config.json and the weights.
        notes: added to the config inside the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = read_json(source / "config.json")
    write_json(folder / "config.json", config)
    inside = json.dumps({**config, **notes})
    write_safetensors(folder / WEIGHTS_NAME, half(read_tensors(source).tensors), {"config": inside})


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
    write_json(folder / CARD_NAME, {**card, "recipe": made})


def add_scores(folder: Path, scores: Mapping[str, float]) -> None:
    """Put measured scores into card.json and bring digests.json up to date."""
    card = read_json(folder / CARD_NAME)
    write_json(folder / CARD_NAME, {**card, "scores": dict(scores)})
    write_digests(folder)


def extend_recipe(start_from: Path | None, run: Mapping[str, object]) -> dict[str, object]:
    """Return the runs that made a starter, those of the one it started from included."""
    if start_from is None:
        return {"runs": [dict(run)]}
    card = read_json(start_from / CARD_NAME)
    return {**card["recipe"], "runs": [*card["recipe"]["runs"], dict(run)]}
