"""What may enter the VAE, and how its progress is told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import MAX_PIXELS, check_integer
from ..errors import IncompatibleInputsError, InvalidInputError, NonFiniteError
from ..types import LATENT_CHANNELS
from .tiling import SMALLEST_TILE

PieceCallback = Callable[[int, int], None]
"""Called with (pieces done, pieces in all). An exception it raises ends the run."""

ROUNDING = 1e-3  # values this far outside [0, 1] come from resizing, not from a wrong range


class Progress:
    """Counts the pieces of a run for a callback; what it tells never goes back.

    Args:
        callback: called after every piece, also when a piece is done again.
    """

    def __init__(self, callback: PieceCallback | None) -> None:
        self._callback = callback
        self._done, self._total = 0, 1
        self._told = (0, 1)

    def restart(self, done: int, total: int) -> None:
        """Count on from `done` of `total` pieces."""
        self._done, self._total = done, total

    def step(self) -> None:
        """Tell that one more piece is done."""
        self._done += 1
        if self._done * self._told[1] > self._told[0] * self._total:
            self._told = (self._done, self._total)
        if self._callback is not None:
            self._callback(*self._told)


def check_latents(latents: Tensor) -> None:
    """Check that latents are (B, 4, F, h, w) and finite.

    Raises:
        IncompatibleInputsError: for other axes.
        NonFiniteError: for NaN or infinity.
    """
    if latents.dim() != 5 or latents.shape[1] != LATENT_CHANNELS or 0 in latents.shape:
        raise IncompatibleInputsError(
            f"The latents are {tuple(latents.shape)}, but the VAE expects (videos, "
            f"{LATENT_CHANNELS}, frames, height, width). Connect the latents of a Latte sampler."
        )
    if not torch.isfinite(latents).all():
        raise NonFiniteError(
            "The latents are NaN or infinite, so nothing was decoded. Sample again in bfloat16 or "
            "float32."
        )


def check_frames(frames: Tensor, multiple: int) -> None:
    """Check that frames are (B, F, H, W, 3) in [0, 1], with edges that are multiples.

    Raises:
        IncompatibleInputsError: for other axes or whole numbers.
        InvalidInputError: for another size, naming the two nearest, or another range.
    """
    if frames.dim() != 5 or frames.shape[-1] != 3 or not frames.is_floating_point():
        raise IncompatibleInputsError(
            f"The frames are {tuple(frames.shape)} of {frames.dtype}, but the VAE expects "
            "floating point (videos, frames, height, width, 3). Connect an IMAGE batch."
        )
    if 0 in frames.shape:
        raise InvalidInputError(
            f"The frames are {tuple(frames.shape)}: there is nothing to encode. Connect a video "
            "with one frame at least."
        )
    for name, edge in (("height", frames.shape[2]), ("width", frames.shape[3])):
        if edge % multiple:
            raise InvalidInputError(
                f"The frames' {name} is {edge} pixels, but the VAE needs a multiple of "
                f"{multiple}. The nearest sizes are {nearest(edge, multiple)}."
            )
    if not bool(((frames >= -ROUNDING) & (frames <= 1 + ROUNDING)).all()):
        raise InvalidInputError(
            f"The frames' values go from {float(frames.min()):.3g} to "
            f"{float(frames.max()):.3g}, but they must lie in 0 to 1. Divide bytes by 255."
        )


def check_tile(tile: int, multiple: int) -> None:
    """Check a tile's edge in pixels.

    Raises:
        InvalidInputError: if it is too small or no multiple.
    """
    check_integer("tile", tile, SMALLEST_TILE * multiple, MAX_PIXELS)
    if tile % multiple:
        raise InvalidInputError(
            f"tile is {tile} pixels, but it must be a multiple of {multiple}. The nearest sizes "
            f"are {nearest(tile, multiple)}."
        )


def nearest(edge: int, multiple: int) -> str:
    """Return the two multiples around `edge` in words; the lower one is not 0."""
    below = edge - edge % multiple
    return f"{max(multiple, below)} and {max(multiple, below) + multiple}"
