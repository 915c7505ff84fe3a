"""The Gaussian diffusion that Latte was trained with: betas, respacing, and the scalars of a step.

Tables are float64 on the CPU. Steps use their entries as Python floats, which torch rounds to the
tensor's own type, so that no device meets a float64 tensor.
"""

from __future__ import annotations

from ..checks import check_eta
from .betas import TRAIN_STEPS, alphas_cumprod_of, linear_betas, scaled_linear_betas
from .ddim import ddim_next, ddim_spread
from .posterior import Posterior
from .respacing import space_timesteps
from .spaced import SpacedDiffusion

__all__ = [
    "TRAIN_STEPS",
    "Posterior",
    "SpacedDiffusion",
    "alphas_cumprod_of",
    "check_eta",
    "ddim_next",
    "ddim_spread",
    "linear_betas",
    "scaled_linear_betas",
    "space_timesteps",
]
