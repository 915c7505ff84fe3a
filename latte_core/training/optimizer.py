"""What every training loop here does in a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_GRADIENT = 1.0  # norm over all parameters


def seed_global(seed: int) -> None:
    """Seed what initialisers and random layers draw from; a training run owns its process."""
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]


def make_adamw(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Return AdamW over parameters, or over groups of them, in one kernel per update."""
    return torch.optim.AdamW(
        parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=True
    )


def take_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> None:
    """Follow the gradient of `loss`, clipped, for one step."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
    optimizer.step()
