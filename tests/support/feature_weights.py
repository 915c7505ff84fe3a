"""Random weights for the feature networks, in files as a user would name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor

from latte_core.checkpoint import write_safetensors
from latte_core.metrics import NETWORKS


def random_weights(name: str, seed: int = 30) -> dict[str, Tensor]:
    """Return weights of a network under which its numbers stay of ordinary size."""
    with torch.device("meta"):
        module = NETWORKS[name].build()
    generator = Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        drawn = torch.rand(value.shape, generator=generator) - 0.5
        if key.endswith(("running_var", "bn.weight")):
            made[key] = drawn + 1.0
        elif key.endswith(("running_mean", "bias", "mean")):
            made[key] = drawn * 0.1
        else:
            made[key] = drawn * (24 / value[0].numel()) ** 0.5
    return made


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file."""
    write_safetensors(path, weights)
    return path


def random_clips(count: int, frames: int, height: int, width: int, seed: int = 31) -> Tensor:
    """Return bytes (N, F, H, W, 3)."""
    generator = Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (count, frames, height, width, 3), generator=generator, dtype=torch.uint8
    )
