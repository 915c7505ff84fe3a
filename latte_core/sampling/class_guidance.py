"""Classifier-free guidance as the class-conditional Latte applies it (docs/model.md 2.9).

Only the noise channels are guided; the variance logits stay those of the class. On the batch axis
the class comes first and the null class, whose number is the number of classes, second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config.latte import LatteConfig
from ..errors import IncompatibleInputsError, InvalidInputError
from ..types import LATENT_CHANNELS
from .guidance import guide
from .stepper import noise_part

ClassModel = Callable[..., Tensor]
"""(latents (B, 4, F, h, w), timesteps (B,), class_labels (B,) or None) -> (B, 4 or 8, F, h, w)."""


def forward_with_guidance(
    model: ClassModel,
    latents: Tensor,
    timesteps: Tensor,
    class_labels: Tensor,
    scale: float,
    **options: Any,
) -> Tensor:
    """Predict noise away from the null class, in one call of twice the batch.

    The reference's function of this purpose takes every video twice and reads the first half; here
    a video is given once.

    Args:
        model: a class-conditional Latte, with its `config`.
        latents: (B, 4, F, h, w).
        timesteps: (B,) or ().
        class_labels: (B,) labels to be followed.
        scale: 1 gives the class's own prediction, 0 that of the null class; 7 is the reference's.
        options: passed to the model as they are.

    Returns:
        (B, 8, F, h, w) float32: guided noise, then the variance logits of the class, as they are;
        four channels if the model learned no variance.

    Raises:
        IncompatibleInputsError: if the model has no classes.
        InvalidInputError: if it has no null class.
    """
    batch = latents.shape[0]
    nulls = torch.full_like(class_labels, null_class(model), dtype=torch.long)
    predicted = model(
        torch.cat([latents, latents]),
        timesteps.expand(batch).repeat(2),
        torch.cat([class_labels, nulls]),
        **options,
    )
    followed, unguided = predicted.chunk(2)
    noise_pred = guide(noise_part(unguided), noise_part(followed), scale)
    # parity: guidance leaves the variance channels alone
    return torch.cat([noise_pred, followed[:, LATENT_CHANNELS:].float()], 1)


def null_class(model: ClassModel) -> int:
    """Return the label that stands for any class.

    Raises:
        IncompatibleInputsError: if the model has no classes.
        InvalidInputError: if it was trained without a null class.
    """
    config = config_of(model)
    if config is None or config.conditioning != "class":
        raise IncompatibleInputsError(
            "Guidance compares a class with any class, but this model has no classes. "
            "Use a guidance scale of 1, or a class-conditional model such as ucf101."
        )
    if not config.has_null_class:
        raise InvalidInputError(
            "Guidance compares a class with any class, but this Latte model was trained without "
            "dropping labels and knows no such class. Use a guidance scale of 1."
        )
    return config.null_class


def config_of(model: ClassModel) -> LatteConfig | None:
    """Return the config of a Latte; None for any other callable."""
    config = getattr(model, "config", None)
    return config if isinstance(config, LatteConfig) else None
