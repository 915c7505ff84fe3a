"""Writing a video as a folder with one picture per frame, which takes its name when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ..errors import VideoWriteError
from ..files import rename_folder
from .pictures import load_pillow, write_picture

FRAME_DIGITS = 6  # of file names


def write_frame_folder(
    target: Path, frames: Iterable[Tensor], *, quality: int | None = None
) -> int:
    """Write 000000.png, 000001.png ... to a new folder.

    Args:
        target: the folder; it must not exist.
        frames: (H, W, 3) uint8 each.
        quality: of JPEG files, 1 to 95; None writes PNG files, which lose nothing.

    Returns:
        How many frames were written.

    Raises:
        VideoWriteError: if the folder exists, or cannot be written.
        MissingDependencyError: if Pillow is not installed.
    """
    load_pillow()
    partial = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    ending = "png" if quality is None else "jpg"
    count = 0
    try:
        partial.mkdir(parents=True)
        for frame in frames:
            write_picture(partial / f"{count:0{FRAME_DIGITS}d}.{ending}", frame, quality)
            count += 1
        if target.exists():
            raise FileExistsError(f"{target.name} exists already")
        rename_folder(partial, target)
    except OSError as error:
        raise VideoWriteError(
            f"The frames of {target.name} were not written to {target.parent.name}: "
            f"{error.strerror or error}. Choose a folder that you may write to, on a disk with "
            "free space."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def remove_unfinished(target: Path) -> None:
    """Remove what a killed run left of this folder."""
    for partial in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(partial, ignore_errors=True)
