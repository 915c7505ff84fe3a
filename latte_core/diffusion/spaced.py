"""A diffusion process on some of the training timesteps (docs/model.md 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .betas import alphas_cumprod_of, linear_betas
from .posterior import Posterior
from .respacing import space_timesteps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpacedDiffusion:
    """The timesteps of a run and the tables that belong to them, all ascending.

    Args:
        timesteps: training timesteps, which is what the model is told.
        posterior: what DDPM steps draw from, with all tables.
    """

    timesteps: tuple[int, ...]
    posterior: Posterior

    @classmethod
    def from_steps(cls, steps: str | int, betas: Tensor | None = None) -> SpacedDiffusion:
        """Make the process of a step string; `betas` (1000,) are Latte's by default.

        Raises:
            InvalidInputError: for a step string that cannot be used, see `space_timesteps`.
        """
        timesteps = space_timesteps(steps)
        visited = alphas_cumprod_of(linear_betas() if betas is None else betas)[list(timesteps)]
        shifted = torch.cat([visited.new_ones(1), visited[:-1]])
        return cls(timesteps=timesteps, posterior=Posterior(visited, shifted))

    @property
    def betas(self) -> Tensor:
        """(T,) float64 variance that leads from each timestep to the next noisier one."""
        return self.posterior.betas

    def alpha(self, index: int) -> float:
        """Return the share of clean signal in the variance at entry `index`; 1 below entry 0."""
        return 1.0 if index < 0 else float(self.posterior.alphas_cumprod[index])

    def denoise(self, index: int, latents: Tensor, noise_pred: Tensor) -> Tensor:
        """Return the clean latents that `noise_pred` leaves of the latents at entry `index`.

        The order of operations is the reference's, so that float32 results are equal to its own.
        """
        inverse = 1 / self.alpha(index)
        return inverse**0.5 * latents - (inverse - 1) ** 0.5 * noise_pred
