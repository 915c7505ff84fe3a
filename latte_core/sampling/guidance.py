"""Classifier-free guidance (Ho & Salimans, 2022) as Latte's text-to-video pipeline applies it.

All eight output channels are guided, variance logits included; the sampler then drops the last four
unless it uses them (docs/model.md 6.4). On the batch axis the negative half comes first. Classes
are guided otherwise, see `class_guidance.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import check_guidance

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, 4, F, h, w), timesteps (B,)) -> (B, 4 or 8, F, h, w)."""


def uses_guidance(scale: float) -> bool:
    """Return whether a negative pass is needed: only above 1.

    Raises:
        InvalidInputError: if the scale is negative or not a number.
    """
    return check_guidance(scale) > 1


def guide(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Return negative + scale * (positive - negative), in float32."""
    start = negative.float()
    return start + scale * (positive.float() - start)


def guided_in_one_batch(predict: NoisePredictor, scale: float) -> NoisePredictor:
    """Guide with one model call of twice the batch.

    Args:
        predict: model whose conditioning is already [negative ; positive], 2B rows.
        scale: guidance scale, > 1.
    """

    def guided(latents: Tensor, timesteps: Tensor) -> Tensor:
        doubled = predict(torch.cat([latents, latents]), torch.cat([timesteps, timesteps]))
        negative, positive = doubled.chunk(2)
        return guide(negative, positive, scale)

    return guided


def guided_in_two_calls(
    negative: NoisePredictor, positive: NoisePredictor, scale: float
) -> NoisePredictor:
    """Guide with two model calls of the plain batch; the same result with half the memory.

    Args:
        negative: model with the negative conditioning.
        positive: model with the positive conditioning.
        scale: guidance scale, > 1.
    """

    def guided(latents: Tensor, timesteps: Tensor) -> Tensor:
        return guide(negative(latents, timesteps), positive(latents, timesteps), scale)

    return guided
