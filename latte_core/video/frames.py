"""Frames as floats in [0, 1] to bytes and back, and enlarging them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidInputError, NonFiniteError
from ..types import check_integer


def check_frames(frames: Tensor) -> Tensor:
    """Return `frames` if they are (F, H, W, 3), at least one, and finite.

    Raises:
        InvalidInputError: for another shape or no frames.
        NonFiniteError: naming the first frame that holds NaN or infinity.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.numel() == 0:
        raise InvalidInputError(
            f"A video must be frames of shape (frames, height, width, 3), all at least 1, "
            f"but this one is {tuple(frames.shape)}."
        )
    if not frames.is_floating_point():
        raise InvalidInputError(
            f"Frames must be floating-point numbers from 0 to 1, but these are {frames.dtype}. "
            "Divide bytes by 255 first."
        )
    for index, frame in enumerate(frames):
        if not bool(torch.isfinite(frame).all()):
            raise NonFiniteError(
                f"Frame {index + 1} of {len(frames)} holds NaN or infinity, so nothing was "
                "written. Run the model or the VAE in bfloat16 or float32."
            )
    return frames


def bytes_from_frames(frames: Tensor) -> Tensor:
    """Return uint8 frames on the CPU: clamped to [0, 1], then rounded to the nearest, half up.

    Args:
        frames: (F, H, W, 3) floating point.

    Raises:
        InvalidInputError: for another shape or dtype.
        NonFiniteError: if a value is NaN or infinite.
    """
    return _quantize(check_frames(frames).detach().to("cpu", torch.float32))


def _quantize(frames: Tensor) -> Tensor:
    return frames.clamp(0, 1).mul(255).add(0.5).floor().clamp(max=255).to(torch.uint8)


def frames_from_bytes(values: Tensor) -> Tensor:
    """Return float32 frames in [0, 1] from uint8 ones of any shape."""
    return values.to(torch.float32) / 255


def enlarge(frames: Tensor, factor: int) -> Tensor:
    """Return frames enlarged with bicubic interpolation, clamped to [0, 1].

    Args:
        frames: (F, H, W, 3) float in [0, 1].
        factor: 1, 2 or 4 times as high and wide.

    Raises:
        InvalidInputError: for another factor.
    """
    if check_integer("upscale", factor, 1, 4) == 3:
        raise InvalidInputError("upscale is 3, but it must be 1, 2 or 4.")
    if factor == 1:
        return frames
    planes = frames.permute(0, 3, 1, 2)  # F 3 H W
    larger = torch.nn.functional.interpolate(planes, scale_factor=factor, mode="bicubic")
    return larger.permute(0, 2, 3, 1).clamp(0, 1)  # F H W 3
