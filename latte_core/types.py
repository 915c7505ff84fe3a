"""Small frozen records shared by all parts, and the legend of tensor letters.

Legend: `B` videos, `F` frames, `C` channels, `H W` rows and columns, `P` patch edge, `S` tokens per
frame, `L` text tokens, `D` hidden size, `N` heads, `T` sampling steps. A video batch is
(B, C, F, H, W) at every public boundary; one latent cell is 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .checks import MAX_FRAMES, check_integer, check_size

if TYPE_CHECKING:
    from torch import Tensor

LATENT_CHANNELS = 4
PIXELS_PER_CELL = 8
SCALING_FACTOR = 0.18215  # latents = VAE output * SCALING_FACTOR
TEXT_TOKENS = 120  # prompt length in T5 tokens, EOS included
TRAIN_STEPS = 1000  # timesteps that Latte was trained on


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
