"""The distribution a DDPM step draws from (Ho et al., 2020, equations 6 and 7), with the learned
variance of Nichol & Dhariwal (2021, equation 15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import LATENT_CHANNELS


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Mean and variance of the next latents, given the latents and the clean ones.

    Entries belong to the timesteps of a run, ascending, so entry 0 is the last step.

    Args:
        alphas_cumprod: (T,) float64, at the timesteps.
        next_alphas_cumprod: (T,) float64, one step on towards clean; 1 is clean.
    """

    alphas_cumprod: Tensor
    next_alphas_cumprod: Tensor

    @property
    def betas(self) -> Tensor:
        """(T,) float64 variance that leads from the next timestep back to this one."""
        return 1 - self.alphas_cumprod / self.next_alphas_cumprod

    @property
    def variances(self) -> Tensor:
        """(T,) float64 lower bound of the variance, 0 where the next latents are clean."""
        return self.betas * (1 - self.next_alphas_cumprod) / (1 - self.alphas_cumprod)

    @property
    def log_variances(self) -> Tensor:
        """(T,) float64 logarithms of the lower bound; if entry 0 is infinite, it repeats entry 1.

        A run of one step repeats its beta instead.
        """
        variances = self.variances
        if self.ends_clean(0):
            variances[0] = variances[1] if len(variances) > 1 else self.betas[0]
        return torch.log(variances)

    def ends_clean(self, index: int) -> bool:
        """Return whether the step ends at clean latents, where no noise is added."""
        return float(self.next_alphas_cumprod[index]) == 1.0

    def mean(self, index: int, denoised: Tensor, latents: Tensor) -> Tensor:
        """Return the mean of the next latents, shaped as the latents are."""
        alpha = float(self.alphas_cumprod[index])
        next_alpha = float(self.next_alphas_cumprod[index])
        beta = float(self.betas[index])
        clean_share = beta * next_alpha**0.5 / (1 - alpha)
        latents_share = (1 - next_alpha) * (1 - beta) ** 0.5 / (1 - alpha)
        return clean_share * denoised + latents_share * latents

    def deviation(
        self, index: int, prediction: Tensor, *, takes_upper: bool = False
    ) -> Tensor | float:
        """Return the standard deviation of the next latents, 0.0 where these are clean.

        Args:
            index: entry of the tables.
            prediction: the model's output; channels after the fourth choose between the lower
                bound (-1) and beta (1).
            takes_upper: whether a prediction without them has beta for its variance, as in the
                authors' process, or the lower bound, as in diffusers'.
        """
        if self.ends_clean(index):
            return 0.0
        lower = float(self.log_variances[index])
        upper = float(torch.log(self.betas[index]))
        if prediction.shape[1] == LATENT_CHANNELS:
            return math.exp(0.5 * (upper if takes_upper else lower))
        share = (prediction[:, LATENT_CHANNELS:] + 1) / 2
        return torch.exp(0.5 * (share * upper + (1 - share) * lower))
