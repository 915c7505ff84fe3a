"""Frames of a clip one after another, in memory that does not grow with the clip."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..checks import MAX_PIXELS
from ..errors import InvalidInputError
from ..video.ffmpeg import open_decoder
from ..video.pictures import load_pillow, read_picture
from ..video.reader import PICTURES, input_arguments
from .folder_contents import EITHER_SUFFIX
from .layouts import Clip
from .transforms import Transform

DEFAULT_MAX_FRAMES = 1024
MAX_FRAME_PIXELS = 4096 * 2304  # of the source; a frame of 8K takes 400 MB while it is resized


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How clips are read.

    Args:
        transform: makes every frame the size of the set.
        num_needed: frames a clip must have.
        most: frames that are read of a longer clip, from its first.
        at_once: frames in one piece.
        has_flips: give every frame mirrored, too.
        max_pixels: of a source frame.
    """

    transform: Transform
    num_needed: int
    most: int = DEFAULT_MAX_FRAMES
    at_once: int = 16
    has_flips: bool = False
    max_pixels: int = MAX_FRAME_PIXELS


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Some frames of a clip.

    Args:
        frames: (F, H, W, 3) float32 in [0, 1].
        flipped: the same frames mirrored before they were cut; None without flips.
    """

    frames: Tensor
    flipped: Tensor | None


def read_clip(clip: Clip, reading: Reading) -> Generator[Piece]:
    """Yield a clip in pieces.

    Raises:
        InvalidInputError: if it cannot be decoded, is too short, or its frames are too large; also
            after some pieces, which are then of no use.
        MissingDependencyError: if imageio-ffmpeg or Pillow is missing.
    """
    if clip.pictures is not None:
        require_enough(clip.name, len(clip.pictures), reading.num_needed)
    count = 0
    waiting: list[tuple[Tensor, Tensor | None]] = []
    with closing(stream_frames(clip, reading.most, reading.max_pixels)) as frames:
        for frame in frames:
            count += 1
            plain = reading.transform(frame[None])
            flipped = reading.transform(frame[None], flipped=True) if reading.has_flips else None
            waiting.append((plain, flipped))
            if len(waiting) == reading.at_once:
                yield _piece(waiting)
                waiting = []
    require_enough(clip.name, count, reading.num_needed)
    if waiting:
        yield _piece(waiting)


def require_enough(name: str, count: int, needed: int) -> None:
    """Refuse a clip that is too short.

    Raises:
        InvalidInputError: saying how many frames it has.
    """
    if count < needed:
        raise InvalidInputError(f"{name} has {count} frames, but {needed} are needed.")


def stream_frames(clip: Clip, most: int, max_pixels: int) -> Generator[Tensor]:
    """Yield the first frames of a clip as they are, (H, W, 3) uint8.

    Args:
        clip: a video or a folder of pictures.
        most: frames to read; what follows them is not looked at.
        max_pixels: of one frame.

    Raises:
        InvalidInputError: if a frame is too large or of another size than the first, or the clip
            cannot be decoded; a video that is cut short says so after its last frame.
        MissingDependencyError: if imageio-ffmpeg or Pillow is missing.
    """
    first: tuple[int, ...] | None = None
    with closing(_source(clip, most, max_pixels)) as source:
        for frame in source:
            first = first or tuple(frame.shape)
            if tuple(frame.shape) != first:
                raise InvalidInputError(
                    f"{clip.name} changes its size from {first[1]} x {first[0]} to "
                    f"{frame.shape[1]} x {frame.shape[0]} pixels."
                )
            yield frame


def _source(clip: Clip, most: int, max_pixels: int) -> Generator[Tensor]:
    if clip.pictures is not None:
        for path in clip.pictures[:most]:
            _require_picture_size(path, max_pixels)
            yield read_picture(path)
    elif clip.path.suffix.lower() == EITHER_SUFFIX:
        yield from _animation(clip.path, most, max_pixels)
    else:
        yield from _video(clip.path, most, max_pixels)


def _video(path: Path, most: int, max_pixels: int) -> Generator[Tensor]:
    """Yield the frames of a video file, which ffmpeg decodes."""
    limit = ("-max_pixels", str(MAX_PIXELS**2))  # ffmpeg itself refuses what could fill the memory
    chosen = (*limit, *input_arguments(path), "-frames:v", str(most), *PICTURES)
    with open_decoder(chosen) as decoder:
        count = 0
        while (size := _read_header(decoder.output)) is not None:
            _require_size(path.name, size, max_pixels)
            picture = bytearray(decoder.output.read(size[0] * size[1] * 3))
            if len(picture) < size[0] * size[1] * 3:
                break  # ffmpeg has died, which its exit code tells
            count += 1
            yield torch.frombuffer(picture, dtype=torch.uint8).view(size[1], size[0], 3)
        if not decoder.ended_well() or count == 0:
            raise InvalidInputError(
                f"{path.name} cannot be decoded to its end: it is damaged, cut short, no video, or "
                f"larger than {MAX_PIXELS} x {MAX_PIXELS} pixels."
            )


def _read_header(stream: IO[bytes]) -> tuple[int, int] | None:
    """Return width and height of the PPM picture that follows, None at the end."""
    size = stream.readline() and stream.readline()
    if not size or not stream.readline():
        return None
    width, height = (int(word) for word in size.split())
    return width, height


def _animation(path: Path, most: int, max_pixels: int) -> Generator[Tensor]:
    """Yield the frames of an animated WebP file, which not every ffmpeg reads."""
    pillow = load_pillow()
    try:
        with pillow.open(path) as animation:
            _require_size(path.name, animation.size, max_pixels)
            for index in range(min(animation.n_frames, most)):
                animation.seek(index)
                yield _pixels(animation.convert("RGB"))
    except InvalidInputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidInputError(
            f"{path.name} cannot be decoded to its end: it is damaged or cut short."
        ) from error


def _pixels(picture: Any) -> Tensor:
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.view(picture.height, picture.width, 3)


def _require_picture_size(path: Path, max_pixels: int) -> None:
    """Refuse a picture by its header, before it is decoded; what has none is left to the reader."""
    pillow = load_pillow()
    try:
        with pillow.open(path) as picture:
            size = picture.size
    except (OSError, SyntaxError, ValueError):
        return
    _require_size(path.name, size, max_pixels)


def _require_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidInputError(
            f"{name} has frames of {width} x {height} pixels, which are more than the "
            f"{max_pixels:,} that are taken."
        )


def _piece(waiting: list[tuple[Tensor, Tensor | None]]) -> Piece:
    mirrored = [flipped for _, flipped in waiting if flipped is not None]
    return Piece(
        frames=torch.cat([plain for plain, _ in waiting]),
        flipped=torch.cat(mirrored) if mirrored else None,
    )
