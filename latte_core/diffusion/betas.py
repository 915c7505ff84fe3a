"""Noise schedules as (1000,) float64 tables of beta, the variance that each timestep adds."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import TRAIN_STEPS

BETA_START = 1e-4
BETA_END = 2e-2


def linear_betas(start: float = BETA_START, end: float = BETA_END) -> Tensor:
    """Return betas that rise linearly; the defaults are every Latte's (docs/model.md 7.1)."""
    return torch.linspace(start, end, TRAIN_STEPS, dtype=torch.float64)


def scaled_linear_betas(start: float, end: float) -> Tensor:
    """Return betas whose square roots rise linearly."""
    return torch.linspace(start**0.5, end**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2


def alphas_cumprod_of(betas: Tensor) -> Tensor:
    """Return the products of 1 - beta: the share of clean signal left in the variance."""
    return (1 - betas).cumprod(0)
