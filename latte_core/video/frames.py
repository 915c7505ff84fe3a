"""Frames as floats in [0, 1] to bytes and back, all at once or one by one, and enlarging them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidInputError, NonFiniteError


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameStream:
    """A video whose frames are made while they are written, so that few exist at a time.

    Args:
        num_frames, height, width: known before the first frame is made.
        frames: (H, W, 3) float in [0, 1] each, to be gone through once.
    """

    num_frames: int
    height: int
    width: int
    frames: Iterable[Tensor]

    @classmethod
    def of(cls, frames: Tensor) -> FrameStream:
        """Return frames (F, H, W, 3) that exist already."""
        num_frames, height, width = frames.shape[:3]
        return cls(num_frames=num_frames, height=height, width=width, frames=frames)

    def checked(self) -> Iterator[Tensor]:
        """Yield the frames, each if it has the size that was said and is finite.

        Raises:
            InvalidInputError: for another size, or another number of frames.
            NonFiniteError: naming the first frame that holds NaN or infinity.
        """
        count = 0
        for count, frame in enumerate(self.frames, 1):
            if tuple(frame.shape) != (self.height, self.width, 3) or count > self.num_frames:
                break
            check_finite(frame, count - 1, self.num_frames)
            yield frame
        else:
            if count == self.num_frames:
                return
        raise InvalidInputError(
            f"A stream of {self.num_frames} frames of {self.height} x {self.width} x 3 was "
            f"announced, but it ended after frame {count} or that one is another. Give the numbers "
            "of the frames that come."
        )


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
        check_finite(frame, index, len(frames))
    return frames


def check_finite(frame: Tensor, index: int, num_frames: int) -> None:
    """Check the numbers of one frame of a video.

    Raises:
        NonFiniteError: naming the frame.
    """
    if not bool(torch.isfinite(frame).all()):
        raise NonFiniteError(
            f"Frame {index + 1} of {num_frames} holds NaN or infinity, so nothing was "
            "written. Run the model or the VAE in bfloat16 or float32."
        )


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
    if _check_factor(factor) == 1:
        return frames
    # Planes that lie apart in memory take half the time, and give the same bits.
    planes = frames.permute(0, 3, 1, 2).contiguous()  # F 3 H W
    larger = torch.nn.functional.interpolate(planes, scale_factor=factor, mode="bicubic")
    return larger.permute(0, 2, 3, 1).clamp(0, 1)  # F H W 3


def enlarge_one_by_one(frames: Tensor, factor: int) -> FrameStream:
    """Return what `enlarge` does, each frame when it is asked for.

    Args:
        frames: (F, H, W, 3) float in [0, 1].
        factor: 1, 2 or 4 times as high and wide.

    Raises:
        InvalidInputError: for another factor.
    """
    num_frames, height, width = frames.shape[:3]
    _check_factor(factor)
    return FrameStream(
        num_frames=num_frames,
        height=height * factor,
        width=width * factor,
        frames=(enlarge(frame[None], factor)[0] for frame in frames),
    )


def _check_factor(factor: int) -> int:
    if check_integer("upscale", factor, 1, 4) == 3:
        raise InvalidInputError("upscale is 3, but it must be 1, 2 or 4.")
    return factor
