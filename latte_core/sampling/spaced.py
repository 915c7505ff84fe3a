"""The reference's own samplers, DDPM and DDIM on a step string's timesteps, and DDIM backwards.

Source: docs/model.md 7.1; Ho et al., 2020; Song et al., 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from ..diffusion import SpacedDiffusion, check_eta, ddim_next, ddim_spread
from ..transfers import send
from .stepper import noise_part

NoiseOfStep = Callable[[int], Tensor]
"""Step index, 0 for the noisiest -> noise (B, 4, F, h, w). Called once for every step, in order."""


class _SpacedStepper:
    """What the three share: they visit every timestep once and scale nothing."""

    def __init__(self, diffusion: SpacedDiffusion, visits: Iterable[int]) -> None:
        self._diffusion = diffusion
        self._timesteps = [float(timestep) for timestep in visits]

    @property
    def timesteps(self) -> list[float]:
        return self._timesteps

    @property
    def initial_sigma(self) -> float:
        return 1.0

    def scale(self, latents: Tensor, call: int) -> Tensor:
        return latents


class SpacedDdpmStepper(_SpacedStepper):
    """DDPM from the noisiest timestep down to clean latents.

    The variance is what the model learned, and beta for a model that learned none: the larger of
    the two fixed ones, which the authors' process takes.

    Args:
        diffusion: timesteps and tables.
        noise: noise of every step; that of the last is asked for, and not used.
    """

    def __init__(self, diffusion: SpacedDiffusion, noise: NoiseOfStep) -> None:
        super().__init__(diffusion, reversed(diffusion.timesteps))
        self._noise = noise

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        index = len(self._timesteps) - 1 - call
        posterior = self._diffusion.posterior
        denoised = self._diffusion.denoise(index, latents, noise_part(prediction))
        mean = posterior.mean(index, denoised, latents)
        noise = send(self._noise(call), latents.device)
        if posterior.ends_clean(index):
            return mean
        return mean + posterior.deviation(index, prediction, takes_upper=True) * noise


class SpacedDdimStepper(_SpacedStepper):
    """DDIM from the noisiest timestep down to clean latents.

    Args:
        diffusion: timesteps and tables.
        eta: 0 for the deterministic sampler, 1 for DDPM-like noise.
        noise: noise of every step, asked for whatever `eta` is, as in the reference.

    Raises:
        InvalidInputError: for an eta out of range.
    """

    def __init__(self, diffusion: SpacedDiffusion, eta: float, noise: NoiseOfStep) -> None:
        super().__init__(diffusion, reversed(diffusion.timesteps))
        self._eta = check_eta(eta)
        self._noise = noise

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        index = len(self._timesteps) - 1 - call
        noise_pred = noise_part(prediction)
        denoised = self._diffusion.denoise(index, latents, noise_pred)
        alpha, next_alpha = self._diffusion.alpha(index), self._diffusion.alpha(index - 1)
        spread = ddim_spread(alpha, next_alpha, self._eta)
        latents = ddim_next(denoised, noise_pred, next_alpha, spread)
        noise = send(self._noise(call), latents.device)
        return latents + spread * noise if spread > 0 else latents


class DdimInversion(_SpacedStepper):
    """DDIM's ODE backwards, from the lowest noise level to the highest.

    Clean latents count as the first level (sigma 0.01). Each step takes the noise predicted at the
    level it leaves for that of the level it reaches, so inversion is exact only in the limit.

    Args:
        diffusion: timesteps and tables; two timesteps at least.
    """

    def __init__(self, diffusion: SpacedDiffusion) -> None:
        super().__init__(diffusion, diffusion.timesteps[:-1])

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        noise_pred = noise_part(prediction)
        denoised = self._diffusion.denoise(call, latents, noise_pred)
        return ddim_next(denoised, noise_pred, self._diffusion.alpha(call + 1))
