"""Video files back to frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InvalidInputError
from .ffmpeg import run_decoder
from .frames import frames_from_bytes

# A file may not make ffmpeg open other files or the network, as playlists do.
SAFE_INPUT = (
    *("-protocol_whitelist", "file"),
    *("-format_whitelist", "mov,matroska,gif,png_pipe,avi,mpeg,mpegts,ogg,asf,flv"),
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FIRST_STREAM = ("-map", "0:v:0", "-an", "-sn")
# A stream header that states the rate as a fraction; the picture after it is not used.
RATE = (*FIRST_STREAM, "-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "pipe:1")
# Every frame as a PPM picture: a header with its size, then RGB bytes.
PICTURES = (
    *FIRST_STREAM,
    *("-fps_mode", "passthrough", "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "pipe:1"),
)


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

    Raises:
        InvalidInputError: if the file does not exist or holds no picture that can be decoded.
        MissingDependencyError: if imageio-ffmpeg is missing.
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidInputError(f"{source.name} cannot be read as a video: there is no such file.")
    given = input_arguments(source)
    pictures, rate = run_decoder((*given, *PICTURES)), run_decoder((*given, *RATE))
    if not pictures or not rate:
        raise unreadable(source)
    return VideoFile(frames=frames_from_bytes(_parse_pictures(pictures)), fps=_parse_rate(rate))


def input_arguments(source: Path) -> tuple[str, ...]:
    """Return ffmpeg's options to open a file, and nothing but that file."""
    return (*SAFE_INPUT, *_forced_format(source), "-i", f"file:{source.resolve()}")


def unreadable(source: Path) -> InvalidInputError:
    """Return the error for a file that ffmpeg does not decode to its end."""
    return InvalidInputError(
        f"{source.name} cannot be read as a video. It may be damaged, cut short, or of a kind "
        "that is not supported; mp4, webm, gif, png, mov, mkv and avi are."
    )


def _forced_format(source: Path) -> tuple[str, ...]:
    """Name the format of a PNG, whose file name ffmpeg might read as a pattern (`50%d.png`)."""
    with source.open("rb") as handle:
        return ("-f", "png_pipe") if handle.read(8) == PNG_SIGNATURE else ()


def _parse_pictures(stream: bytes) -> Tensor:
    """Return (F, H, W, 3) uint8 from PPM pictures of one size, written back to back."""
    magic, size, depth, _ = stream.split(b"\n", 3)
    width, height = (int(word) for word in size.split())
    start = len(magic) + len(size) + len(depth) + len(b"\n\n\n")
    pictures = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
    pictures = pictures.view(-1, start + height * width * 3)
    return pictures[:, start:].reshape(-1, height, width, 3)


def _parse_rate(stream: bytes) -> Fraction:
    """Return the rate in a YUV4MPEG2 header, `F<numerator>:<denominator>`."""
    words = stream.split(b"\n", 1)[0].decode("ascii").split()
    numerator, denominator = next(word[1:] for word in words if word.startswith("F")).split(":")
    return Fraction(int(numerator), int(denominator))
