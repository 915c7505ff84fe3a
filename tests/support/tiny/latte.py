"""A class-conditional Latte of a few thousand parameters, and the files people keep one in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from latte_core.config.latte import LatteConfig
from latte_core.model.latte.transformer import Latte, fill_tables

TINY_LATTE: dict[str, Any] = {
    "_class_name": "Latte",
    "input_size": 8,
    "patch_size": 2,
    "hidden_size": 16,
    "depth": 4,
    "num_heads": 2,
    "num_frames": 3,
    "conditioning": "class",
    "num_classes": 5,
}
NO_CLASSES: dict[str, Any] = {"conditioning": "none", "num_classes": 0}
TEXT: dict[str, Any] = {"conditioning": "clip_text", "num_classes": 0, "text_features": 24}
IMAGE: dict[str, Any] = {"has_temporal": False, "num_frames": 1}


def tiny_latte_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json for a tiny Latte."""
    return {**TINY_LATTE, **changes}


def tiny_latte(seed: int = 0, **changes: Any) -> Latte:
    """Return a tiny Latte with random weights that depend on `seed` alone, and true tables."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Latte(LatteConfig.from_dict(tiny_latte_config(**changes)))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    fill_tables(model)
    return model.eval()


def tiny_latte_weights(seed: int = 0, prefix: str = "", **changes: Any) -> dict[str, Tensor]:
    """Return the weights of a tiny Latte under `prefix`."""
    weights = tiny_latte(seed, **changes).state_dict()
    return {f"{prefix}{key}": value.clone() for key, value in weights.items()}


def write_latte_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a folder of a Latte's weights with the config.json that they need."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_latte_config(**changes)), encoding="utf-8")
    save_file(tiny_latte_weights(seed, **changes), folder / "diffusion_pytorch_model.safetensors")
    return folder
