"""Tiny random class models as people keep them: a folder with its VAE, or a file beside one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .latte import tiny_latte_weights, write_latte_folder
from .pipeline import VAE

NAMES = ["red circle", "blue circle", "red square", "blue square", "green square"]
SIDE = 64  # pixels of TINY_LATTE
FRAMES = 3


def write_vae(folder: Path, *, temporal: bool = False) -> Path:
    """Write a random VAE of 8 pixels a cell; the same on every call."""
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

    blocks = len(VAE["block_out_channels"])
    down = ("DownEncoderBlock2D",) * blocks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(21)
        if temporal:
            module = AutoencoderKLTemporalDecoder(**VAE, down_block_types=down)
        else:
            module = AutoencoderKL(
                **VAE, down_block_types=down, up_block_types=("UpDecoderBlock2D",) * blocks
            )
        module.save_pretrained(folder)
    return folder


def write_class_folder(folder: Path, *, names: Any = NAMES, **changes: Any) -> Path:
    """Write `transformer/`, `vae/`, `vae_temporal_decoder/`, and `classes.json` unless None."""
    write_latte_folder(folder / "transformer", **changes)
    write_vae(folder / "vae")
    write_vae(folder / "vae_temporal_decoder", temporal=True)
    if names is not None:
        (folder / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def write_released_file(path: Path, **changes: Any) -> Path:
    """Write a bare .pt file, as the authors publish them, of a width that tells the heads.

    The weights are small enough that a model of this width does not overflow.
    """
    wide = {"hidden_size": 384, "num_heads": 6, "depth": 2, **changes}
    weights = {name: 0.05 * value for name, value in tiny_latte_weights(**wide).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path
