"""DDIM (Song et al., 2021, equation 12) exactly as Latte's pipeline runs it."""

from __future__ import annotations

from torch import Tensor

from ..checks import check_eta
from ..diffusion.ddim import ddim_next, ddim_spread
from ..transfers import send
from .noise import StepNoise
from .settings import TRAIN_STEPS, ScheduleSettings
from .stepper import AlphaTable, clip, noise_part, predict_denoised


class DdimStepper:
    """DDIM on Latte's timesteps: final alpha 1 and no clipping unless the settings say so.

    Args:
        settings: noise schedule and spacing.
        num_steps: steps of the run, 1 .. 1000.
        eta: 0 for the deterministic sampler, 1 for DDPM-like noise.
        noise: noise added per step; drawn from only if eta > 0.

    Raises:
        InvalidInputError: for a step count or eta out of range.
    """

    def __init__(
        self, settings: ScheduleSettings, num_steps: int, eta: float, noise: StepNoise
    ) -> None:
        self._visits = settings.timesteps(num_steps)
        self._stride = TRAIN_STEPS // num_steps
        self._clip_range = settings.clip_range
        self._alphas = AlphaTable.from_tensor(
            settings.alphas_cumprod(), ends_clean=settings.set_alpha_to_one is not False
        )
        self._eta = check_eta(eta)
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
        noise_pred = noise_part(prediction)
        denoised = clip(predict_denoised(latents, noise_pred, alpha), self._clip_range)
        spread = ddim_spread(alpha, next_alpha, self._eta)
        latents = ddim_next(denoised, noise_pred, next_alpha, spread)
        if spread > 0:
            latents = latents + spread * send(self._noise.draw(latents.shape), latents.device)
        return latents
