"""Small frozen records shared by all parts, and the legend of tensor letters.

Legend: `B` videos, `F` frames, `C` channels, `H W` rows and columns, `P` patch edge, `S` tokens per
frame, `L` text tokens, `D` hidden size, `N` heads, `T` sampling steps. A video batch is
(B, C, F, H, W) at every public boundary; one latent cell is 8 x 8 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

LATENT_CHANNELS = 4
PIXELS_PER_CELL = 8
SIZE_MULTIPLE = 16  # one patch of 2 x 2 latent cells
SCALING_FACTOR = 0.18215  # latents = VAE output * SCALING_FACTOR
TEXT_TOKENS = 120  # prompt length in T5 tokens, EOS included
MAX_PIXELS = 8192
MAX_FRAMES = 65536
MAX_SEED = 2**64 - 1
TRAIN_STEPS = 1000  # timesteps that Latte was trained on
MAX_BATCH = 64  # videos made together


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is an integer in [low, high]; a bool or a float is not an integer.

    Raises:
        InvalidInputError: otherwise, with the name, the value found and the range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInputError(
            f"{name} is {value!r}, but it must be a whole number from {low} to {high}."
        )
    return value


def check_size(name: str, value: object) -> int:
    """Return `value` if it is a size in pixels that Latte can make: a positive multiple of 16.

    Raises:
        InvalidInputError: otherwise; a size between two multiples is told both.
    """
    size = check_integer(name, value, SIZE_MULTIPLE, MAX_PIXELS)
    if size % SIZE_MULTIPLE:
        below = size - size % SIZE_MULTIPLE
        raise InvalidInputError(
            f"{name} is {size} pixels, but Latte needs a multiple of {SIZE_MULTIPLE}. "
            f"The nearest sizes are {below} and {below + SIZE_MULTIPLE}."
        )
    return size


def check_seed(value: object) -> int:
    """Return `value` if it is a seed, 0 to 2^64 - 1.

    Raises:
        InvalidInputError: otherwise.
    """
    return check_integer("seed", value, 0, MAX_SEED)


def check_eta(eta: float) -> float:
    """Return DDIM's share of noise if it is one.

    Raises:
        InvalidInputError: outside 0 .. 1.
    """
    if not (math.isfinite(eta) and 0 <= eta <= 1):
        raise InvalidInputError(
            f"eta is {eta!r}, but it must be from 0 (deterministic) to 1 (fully stochastic)."
        )
    return eta


def check_guidance(scale: float) -> float:
    """Return a guidance scale if it is one.

    Raises:
        InvalidInputError: if it is negative or not a number.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise InvalidInputError(
            f"guidance_scale is {scale!r}, but it must be a number from 0 up; "
            "1 or less switches guidance off, 7.5 is the usual value."
        )
    return scale


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoShape:
    """The size of a batch of videos in pixels, checked.

    Args:
        batch: videos, >= 1.
        num_frames: frames in each, >= 1; one frame is an image.
        height: pixels, a multiple of 16.
        width: pixels, a multiple of 16.

    Raises:
        InvalidInputError: naming the value and the nearest valid ones.
    """

    batch: int = 1
    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        check_integer("batch", self.batch, 1, MAX_FRAMES)
        check_integer("frames", self.num_frames, 1, MAX_FRAMES)
        check_size("height", self.height)
        check_size("width", self.width)

    def latent_size(self) -> tuple[int, int, int, int, int]:
        """Return (B, 4, F, h, w)."""
        height, width = self.height // PIXELS_PER_CELL, self.width // PIXELS_PER_CELL
        return (self.batch, LATENT_CHANNELS, self.num_frames, height, width)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """What a per-step callback is told.

    Args:
        step: index of the finished step, 0 .. num_steps - 1.
        num_steps: steps of the run.
        timestep: training-time index of the step, 0 .. 999, possibly fractional.
        denoised: (B, 4, F, h, w) predicted clean latents, on the device that samples.
    """

    step: int
    num_steps: int
    timestep: float
    denoised: Tensor


StepCallback = Callable[[StepInfo], None]
"""Called after each step. An exception it raises ends the run and reaches the caller as it is."""
