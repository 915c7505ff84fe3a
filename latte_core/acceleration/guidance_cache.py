"""FasterCache's guidance cache: the unconditional half rebuilt from the conditional one.

In some steps only the rows with the prompt (or class) are computed. What the other half would have
predicted is the followed prediction plus the difference of the two at the last step that computed
both, taken apart into low and high spatial frequencies that are weighted by the time in the run
(FasterCache, arXiv 2410.19355, section 3.3; docs/acceleration.md 4). The Fourier transform is
linear, so the two parts are kept as latents and no transform is needed to rebuild.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..types import LATENT_CHANNELS
from .plans import GuidancePlan

RADIUS_DIVISOR = 5  # low frequencies: a disc of min(h, w) // 5 around the mean


class GuidanceCache:
    """The guidance cache of one run.

    Args:
        num_steps: steps of the run.
        plan: when and how.
    """

    def __init__(self, num_steps: int, plan: GuidancePlan | None = None) -> None:
        self._num_steps = num_steps
        self._plan = plan or GuidancePlan()
        self._last_both = -1
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def is_half(self, index: int, *, is_skipped: bool = False) -> bool:
        """Whether the unfollowed half of a step can be left out.

        Args:
            index: of the step, 0 for the first of the run.
            is_skipped: the step runs no blocks; there is nothing to renew a difference from.
        """
        if self._low is None or index >= self._num_steps - 1:
            return False
        if index < round(self._plan.start * self._num_steps):
            return False
        return is_skipped or index - self._last_both < self._plan.period

    def keep(self, index: int, followed: Tensor, other: Tensor) -> None:
        """Keep the difference of both halves' predictions, (B, 4 or 8, F, h, w) each."""
        difference = noise_of(other) - noise_of(followed)
        self._low = low_frequencies(difference)
        self._high = difference - self._low
        self._last_both = index

    def rebuild(self, index: int, followed: Tensor) -> Tensor:
        """Return the other half's prediction.

        Args:
            index: of the step.
            followed: (B, 4 or 8, F, h, w) prediction with the prompt; variance logits, if there are
                any, are taken over as they are.
        """
        if self._low is None or self._high is None or self._low.shape[0] != followed.shape[0]:
            raise InvalidInputError(
                "The guidance cache was asked for a half before both were computed for as many "
                "videos. Ask `is_half` first, and keep the order of the calls."
            )
        is_late = index >= self._plan.switch * self._num_steps
        low = 1.0 if is_late else self._plan.low_gain
        high = self._plan.high_gain if is_late else 1.0
        noise = noise_of(followed) + low * self._low + high * self._high
        return torch.cat([noise.to(followed.dtype), followed[:, LATENT_CHANNELS:]], dim=1)


def noise_of(prediction: Tensor) -> Tensor:
    """Return the noise channels in float32, which every device can transform."""
    return prediction[:, :LATENT_CHANNELS].float()


def low_frequencies(latents: Tensor) -> Tensor:
    """Return the part of (..., h, w) float32 whose spatial frequencies lie in the disc."""
    height, width = latents.shape[-2:]
    rows = torch.arange(height, device=latents.device) - height // 2
    columns = torch.arange(width, device=latents.device) - width // 2
    radius = min(height, width) // RADIUS_DIVISOR
    disc = rows[:, None] ** 2 + columns[None, :] ** 2 <= radius**2
    fft: Any = torch.fft  # its functions carry no types
    spectrum = fft.fftshift(fft.fft2(latents), dim=(-2, -1))
    kept = fft.ifftshift(spectrum * disc, dim=(-2, -1))
    return fft.ifft2(kept).real
