"""Which timesteps the starters are trained on, and how much each counts.

The objective is the noise prediction of latte.md 10 (linear betas 1e-4 .. 2e-2). Each timestep is
weighted by `timestep_weights`, so that the noisy steps, where place, colour and direction are
decided but the noise is easy to predict, count as much as the clean ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

SNR_LIMIT = 5.0
NUM_TIMESTEPS = 1000


def alphas_cumprod() -> Tensor:
    """Return (1000,) float32 for linear betas 1e-4 .. 2e-2, computed in float64."""
    betas = torch.linspace(1e-4, 2e-2, NUM_TIMESTEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def spread_timesteps(count: int, generator: torch.Generator, lowest: int = 0) -> Tensor:
    """Draw (B,) timesteps, one from each of B equal parts of lowest .. 999."""
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (lowest + place * (NUM_TIMESTEPS - lowest)).long().clamp(max=NUM_TIMESTEPS - 1)


def timestep_weights(alphas: Tensor) -> Tensor:
    """Weigh the squared noise error of timesteps with the given cumulative alphas, (B,).

    In terms of the predicted clean latents the weight is the square root of the signal-to-noise
    ratio, limited at a ratio of 5 as by Hang et al., 2023.
    """
    ratio = alphas / (1 - alphas)
    return ratio.clamp(max=SNR_LIMIT).sqrt() / ratio
