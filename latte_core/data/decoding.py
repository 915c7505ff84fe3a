"""Frames of a clip one after another, in memory that does not grow with the clip."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import InvalidInputError, UnreadableMediaError
from ..video.decode import decode_frames
from ..video.pictures import read_animation, read_picture
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
    if clip.problem:
        raise UnreadableMediaError(clip.problem)
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
            yield read_picture(path, max_pixels=max_pixels)
    elif clip.path.suffix.lower() == EITHER_SUFFIX:
        yield from read_animation(clip.path, most, max_pixels=max_pixels)
    else:
        check = partial(_require_size, clip.path.name, max_pixels)
        yield from decode_frames(clip.path, most=most, check=check)


def _require_size(name: str, max_pixels: int, width: int, height: int) -> None:
    if width * height > max_pixels:
        raise UnreadableMediaError(
            f"{name} has frames of {width} x {height} pixels, which are more than the "
            f"{max_pixels:,} that are taken."
        )


def _piece(waiting: list[tuple[Tensor, Tensor | None]]) -> Piece:
    mirrored = [flipped for _, flipped in waiting if flipped is not None]
    return Piece(
        frames=torch.cat([plain for plain, _ in waiting]),
        flipped=torch.cat(mirrored) if mirrored else None,
    )
