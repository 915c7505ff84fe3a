"""Tiny random VAEs in diffusers' layout, image and temporal, and diffusers' own decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SCALING_FACTOR = 0.18215


def vae_config(*, temporal: bool, **changes: Any) -> dict[str, Any]:
    """Return a `config.json` of a three-level VAE with 32, 32 and 64 channels (4 pixels a cell)."""
    levels = 3
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKLTemporalDecoder" if temporal else "AutoencoderKL",
        "_diffusers_version": "0.24.0",
        "_name_or_path": "somewhere",
        "block_out_channels": [32, 32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "out_channels": 3,
        "sample_size": 64,
        "scaling_factor": SCALING_FACTOR,
    }
    if not temporal:
        config |= {
            "act_fn": "silu",
            "norm_num_groups": 32,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    return {**config, **changes}


def make_reference(*, temporal: bool, seed: int = 0, **changes: Any) -> Any:
    """Return diffusers' own module with random weights, made without our code.

    The mixing factors of the temporal decoder are spread out: at their initial value of zero a
    mistake in them would not show.
    """
    import diffusers

    config = vae_config(temporal=temporal, **changes)
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if not key.startswith("_")
    }
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    module = getattr(diffusers, config["_class_name"])(**arguments).eval()
    for name, parameter in module.named_parameters():
        if "mix_factor" in name:
            torch.nn.init.normal_(parameter.data)
    torch.set_rng_state(state)
    return module


def vae_tensors(*, temporal: bool, seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    """Return random weights under diffusers' names."""
    module = make_reference(temporal=temporal, seed=seed, **changes)
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def write_vae_folder(folder: Path, *, temporal: bool, seed: int = 0) -> Path:
    """Write `vae/` or `vae_temporal_decoder/` as diffusers does."""
    folder.mkdir(parents=True)
    config = json.dumps(vae_config(temporal=temporal))
    (folder / "config.json").write_text(config, encoding="utf-8")
    tensors = vae_tensors(temporal=temporal, seed=seed)
    save_file(tensors, str(folder / "diffusion_pytorch_model.safetensors"))
    return folder


@torch.no_grad()
def reference_frames(module: Any, video: Tensor, chunk: int) -> Tensor:
    """Decode one scaled video (4, F, h, w) in chunks with diffusers: (F, H, W, 3) in [0, 1]."""
    temporal = "Temporal" in type(module).__name__
    pieces: list[Tensor] = []
    for some in (video.movedim(1, 0) / SCALING_FACTOR).split(chunk):
        options = {"num_frames": len(some)} if temporal else {}
        pieces.append(module.decode(some, **options).sample)
    return (torch.cat(pieces) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
