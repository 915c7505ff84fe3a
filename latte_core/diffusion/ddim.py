"""The step of DDIM (Song et al., 2021, equations 12 and 16), in either direction."""

from __future__ import annotations

import math

from torch import Tensor


def ddim_spread(alpha: float, next_alpha: float, eta: float) -> float:
    """Return the standard deviation of the noise a step adds; 0 for an eta of 0 and at the end.

    Args:
        alpha: alphas_cumprod at the timestep.
        next_alpha: alphas_cumprod at the next one, 1 for clean latents.
        eta: 0 .. 1.
    """
    return eta * math.sqrt((1 - next_alpha) / (1 - alpha) * max(1 - alpha / next_alpha, 0.0))


def ddim_next(
    denoised: Tensor, noise_pred: Tensor, next_alpha: float, spread: float = 0.0
) -> Tensor:
    """Return the next latents before noise of deviation `spread` is added to them.

    A `next_alpha` below the present one goes towards noise: the reverse step of the ODE.
    """
    direction = math.sqrt(max(1 - next_alpha - spread**2, 0.0))
    return next_alpha**0.5 * denoised + direction * noise_pred
