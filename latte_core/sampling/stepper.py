"""What a sampler is to the loop: timesteps to visit, and a rule for going from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..types import LATENT_CHANNELS


class Stepper(Protocol):
    """One run of one sampler. All tensors are (B, 4, F, h, w) float32 on the device of the run.

    No method waits for that device: what a step multiplies with are Python's numbers, and noise is
    drawn on the CPU and sent.
    """

    @property
    def timesteps(self) -> list[float]:
        """Training-time index of every model call, in order."""
        ...

    @property
    def initial_sigma(self) -> float:
        """What unit noise is multiplied by before the first call."""
        ...

    def scale(self, latents: Tensor, call: int) -> Tensor:
        """Return the model input of call number `call`, of about unit variance."""
        ...

    def step(self, prediction: Tensor, call: int, latents: Tensor) -> Tensor:
        """Return the next latents from the model's output (B, 4 or 8, F, h, w)."""
        ...


@dataclass(frozen=True, slots=True)
class AlphaTable:
    """The schedule's alpha products as Python floats, so that no device meets a float64 tensor.

    Args:
        values: 1000 products, decreasing.
        final: what stands below timestep 0; 1 means clean latents.
    """

    values: tuple[float, ...]
    final: float = 1.0

    @classmethod
    def from_tensor(cls, alphas_cumprod: Tensor, *, ends_clean: bool = True) -> AlphaTable:
        """Read a (1000,) table; the last step ends at 1, or at the table's first value."""
        values = tuple(float(value) for value in alphas_cumprod)
        return cls(values, 1.0 if ends_clean else values[0])

    def at(self, timestep: int) -> float:
        """Return the product at a whole timestep; below 0 that of the end."""
        return self.values[timestep] if timestep >= 0 else self.final

    def between(self, timestep: float) -> float:
        """Return the product at a fractional timestep, linear between whole ones."""
        low = min(max(int(timestep), 0), len(self.values) - 1)
        high = min(low + 1, len(self.values) - 1)
        share = min(max(timestep - low, 0.0), 1.0)
        return self.values[low] * (1 - share) + self.values[high] * share


def noise_part(prediction: Tensor) -> Tensor:
    """Return the first four channels, the predicted noise; the rest are variance logits."""
    return prediction[:, :LATENT_CHANNELS]


def clip(denoised: Tensor, limit: float | None) -> Tensor:
    """Clamp predicted clean latents, if there is a limit."""
    return denoised if limit is None else denoised.clamp(-limit, limit)


def predict_denoised(model_input: Tensor, noise_pred: Tensor, alpha: float) -> Tensor:
    """Return the clean latents in x = sqrt(a) x0 + sqrt(1 - a) eps, for x and eps given."""
    return (model_input - (1 - alpha) ** 0.5 * noise_pred) / alpha**0.5
