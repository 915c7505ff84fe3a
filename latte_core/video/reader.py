"""Video files back to frames."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InvalidInputError
from .decode import decode_frames, input_arguments, unreadable
from .ffmpeg import run_decoder
from .frames import frames_from_bytes
from .look import FIRST_STREAM

# A stream header that states the rate as a fraction; the picture after it is not used.
RATE = (*FIRST_STREAM, "-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "pipe:1")
MOST_BYTES = 2**32  # of the frames of one video as bytes; as numbers they take four times as much


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFile:
    """What a video file holds.

    Args:
        frames: (F, H, W, 3) float32 in [0, 1].
        fps: frames per second, as a fraction.
    """

    frames: Tensor
    fps: Fraction


def read_video(path: str | Path) -> VideoFile:
    """Decode every frame of a video, animation or picture, in the size and number it has.

    Frames are upright, of square pixels, opaque and in the brightness of ordinary screens.

    Raises:
        InvalidInputError: if the file does not exist, holds no picture that can be decoded, or
            more than fits into memory.
        MissingDependencyError: if imageio-ffmpeg is missing.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise InvalidInputError(f"{source.name} cannot be read as a video: there is no such file.")
    rate = run_decoder((*input_arguments(source), *RATE))
    if not rate:
        raise unreadable(source)
    frames: list[Tensor] = []
    with closing(decode_frames(source)) as decoded:
        for frame in decoded:
            frames.append(_fitting(source, frames, frame))
    return VideoFile(frames=frames_from_bytes(torch.stack(frames)), fps=_parse_rate(rate))


def _fitting(source: Path, before: Sequence[Tensor], frame: Tensor) -> Tensor:
    """Return a frame if it can be kept with those before it."""
    height, width = frame.shape[:2]
    if before and frame.shape != before[0].shape:
        raise InvalidInputError(
            f"{source.name} changes its size from {before[0].shape[1]} x {before[0].shape[0]} to "
            f"{width} x {height} pixels. Cut it there into two videos."
        )
    if frame.numel() * (len(before) + 1) > MOST_BYTES:
        raise InvalidInputError(
            f"{source.name} has more than {len(before)} frames of {width} x {height} pixels, "
            f"which take over {4 * MOST_BYTES // 2**30} GB of memory together. Cut it into pieces."
        )
    return frame


def _parse_rate(stream: bytes) -> Fraction:
    """Return the rate in a YUV4MPEG2 header, `F<numerator>:<denominator>`."""
    words = stream.split(b"\n", 1)[0].decode("ascii").split()
    numerator, denominator = next(word[1:] for word in words if word.startswith("F")).split(":")
    return Fraction(int(numerator), int(denominator))
