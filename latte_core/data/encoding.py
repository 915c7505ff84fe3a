"""Frames to the moments of the VAE's posterior, and captions to the features the model reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..errors import IncompatibleInputsError, NonFiniteError
from ..text.prompt import prepare_prompt
from ..text.t5 import TextEncoder
from ..vae.checks import check_frames
from ..vae.frames import VideoVAE


@torch.no_grad()
def encode_moments(vae: VideoVAE, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Encode some frames of one video in one call of the VAE.

    The mean is what `VideoVAE.encode` gives without a generator; the mean plus the standard
    deviation times noise is what it gives with one.

    Args:
        vae: image or temporal; frames are encoded one by one in both.
        frames: (F, H, W, 3) in [0, 1].

    Returns:
        mean and standard deviation, scaled, (F, 4, h, w) float32 on the CPU.

    Raises:
        IncompatibleInputsError: if the VAE cannot encode.
        InvalidInputError: if the size is no multiple of a cell.
        NonFiniteError: if the result is NaN or infinite.
    """
    if not vae.can_encode:
        raise IncompatibleInputsError(
            "This VAE only decodes: its file holds no encoder. Prepare with a model that has the "
            "image VAE."
        )
    check_frames(frames[None], vae.config.compression)
    pixels = rearrange(frames, "f h w c -> f c h w").float() * 2 - 1
    moments: Tensor = vae.module.encode(pixels.to(vae.device, vae.dtype)).latent_dist.parameters
    mean, log_variance = moments.float().cpu().chunk(2, dim=1)
    if not torch.isfinite(mean).all():
        raise NonFiniteError(
            f"The VAE gave NaN or infinite latents in {vae.dtype}. Run it in float32; if it does, "
            "check that its file is whole."
        )
    std = (0.5 * log_variance.clamp(-30, 20)).exp()
    return mean * vae.scaling_factor, std * vae.scaling_factor


def encode_captions(
    encoder: TextEncoder, captions: Sequence[str], *, clean_caption: bool = True
) -> list[Tensor]:
    """Encode captions as the pipeline encodes a prompt: cleaned, padded to 120, then cut.

    Returns:
        for each caption its real tokens, the end token included: (n, width).

    Raises:
        NonFiniteError: if the features are NaN or infinite.
        MissingDependencyError: if cleaning is on and ftfy or beautifulsoup4 is not installed.
    """
    features = encoder.encode([prepare_prompt(text, clean_caption) for text in captions])
    return [
        rows[: int(mask.sum())].cpu()
        for rows, mask in zip(features.embeds, features.mask, strict=True)
    ]


def encode_empty_rows(encoder: TextEncoder) -> Tensor:
    """Return all 120 rows of the empty caption, (120, width); guidance sees the first n of them."""
    return encoder.encode([""]).embeds[0].cpu()
