"""A LatteT2V of a few thousand parameters, and the files people keep one in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from latte_core.config.t2v import LatteT2VConfig
from latte_core.model.t2v.transformer import LatteT2V

TINY: dict[str, Any] = {
    "_class_name": "LatteTransformer3DModel",
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": 24,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 8,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "num_embeds_ada_norm": 1000,
}


def tiny_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json for a tiny LatteT2V."""
    return {**TINY, **changes}


def tiny_model(seed: int = 0, **changes: Any) -> LatteT2V:
    """Return a tiny LatteT2V with random weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LatteT2V.from_config(LatteT2VConfig.from_dict(tiny_config(**changes)))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_weights(seed: int = 0, prefix: str = "", **changes: Any) -> dict[str, Tensor]:
    """Return the weights of a tiny LatteT2V under `prefix`."""
    weights = tiny_model(seed, **changes).state_dict()
    return {f"{prefix}{key}": value.clone() for key, value in weights.items()}


def write_transformer_folder(folder: Path, seed: int = 0) -> Path:
    """Write the folder that a Latte-1 keeps its transformer in."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_config()), encoding="utf-8")
    save_file(tiny_weights(seed), folder / "diffusion_pytorch_model.safetensors")
    return folder
