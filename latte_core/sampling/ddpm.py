"""DDPM ancestral sampling (Ho et al., 2020) with the learned variance of Nichol & Dhariwal (2021).

The variance uses the four channels that the other samplers drop (improved DDPM, equation 15).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.posterior import Posterior
from ..transfers import send
from .noise import StepNoise
from .settings import TRAIN_STEPS, ScheduleSettings
from .stepper import clip, noise_part, predict_denoised


class DdpmStepper:
    """DDPM on a subset of timesteps.

    A model with eight output channels sets the variance of each step between its two bounds; for
    one with four channels the lower bound is used.

    Args:
        settings: noise schedule and spacing.
        num_steps: steps of the run, 1 .. 1000.
        noise: noise added per step; none is added after the last.

    Raises:
        InvalidInputError: for a step count out of range.
    """

    def __init__(self, settings: ScheduleSettings, num_steps: int, noise: StepNoise) -> None:
        self._visits = settings.timesteps(num_steps)
        self._clip_range = settings.clip_range
        self._posterior = _posterior(settings, self._visits, TRAIN_STEPS // num_steps)
        self._noise = noise

    @property
    def timesteps(self) -> list[float]:
        return [float(timestep) for timestep in self._visits]

    @property
    def initial_sigma(self) -> float:
        return 1.0

    def scale(self, latents: Tensor, call: int) -> Tensor:
        return latents

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        index = len(self._visits) - 1 - call
        alpha = float(self._posterior.alphas_cumprod[index])
        denoised = predict_denoised(latents, noise_part(prediction), alpha)
        mean = self._posterior.mean(index, clip(denoised, self._clip_range), latents)
        if self._posterior.ends_clean(index):
            return mean
        deviation = self._posterior.deviation(index, prediction)
        return mean + deviation * send(self._noise.draw(mean.shape), mean.device)


def _posterior(settings: ScheduleSettings, visits: list[int], stride: int) -> Posterior:
    """Return the tables of steps that go down by `stride`, whatever the next visit is."""
    alphas = settings.alphas_cumprod()
    ascending = torch.tensor(visits[::-1])
    next_alphas = torch.where(ascending < stride, 1.0, alphas[(ascending - stride).clamp(min=0)])
    return Posterior(alphas[ascending], next_alphas)
