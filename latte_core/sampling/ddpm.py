"""DDPM ancestral sampling (Ho et al., 2020) with the learned variance of Nichol & Dhariwal (2021).

The variance uses the four channels that the other samplers drop (improved DDPM, equation 15).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import LATENT_CHANNELS
from .noise import StepNoise
from .settings import TRAIN_STEPS, ScheduleSettings
from .stepper import AlphaTable, clip, noise_part, predict_denoised


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
        self._stride = TRAIN_STEPS // num_steps
        self._clip_range = settings.clip_range
        self._alphas = AlphaTable.from_tensor(settings.alphas_cumprod())
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
        timestep = self._visits[call]
        alpha, next_alpha = self._alphas.at(timestep), self._alphas.at(timestep - self._stride)
        beta = 1 - alpha / next_alpha
        denoised = predict_denoised(latents, noise_part(prediction), alpha)
        denoised = clip(denoised, self._clip_range)
        mean = (beta * next_alpha**0.5 / (1 - alpha)) * denoised + (
            (1 - next_alpha) * (1 - beta) ** 0.5 / (1 - alpha)
        ) * latents
        if next_alpha == 1.0 or beta <= 0:
            return mean
        lower = math.log(beta * (1 - next_alpha) / (1 - alpha))
        deviation = _deviation(prediction, lower, math.log(beta))
        return mean + deviation * self._noise.draw(mean.shape)


def _deviation(prediction: Tensor, lower: float, upper: float) -> Tensor | float:
    """Return the standard deviation between the two log-variance bounds."""
    if prediction.shape[1] == LATENT_CHANNELS:
        return math.exp(0.5 * lower)
    share = (prediction[:, LATENT_CHANNELS:] + 1) / 2
    return torch.exp(0.5 * (share * upper + (1 - share) * lower))
