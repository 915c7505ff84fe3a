"""Single pictures as bytes: reading, writing and cutting to a square, with Pillow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInputError, MissingDependencyError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
MAX_PIXELS = 2**26  # of one picture; larger ones are a mistake or an attack


def is_picture(path: Path) -> bool:
    """Return whether a file's name says that it is a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def load_pillow() -> Any:
    """Return the module PIL.Image.

    Raises:
        MissingDependencyError: if Pillow is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependencyError(
            "Folders of pictures need the package Pillow, which is not installed. "
            "Run: pip install pillow"
        ) from error


def read_picture(path: Path) -> Tensor:
    """Read a picture with 8 bits a channel; transparency is dropped, grey becomes RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InvalidInputError: if it cannot be read, is too large, or has more than 8 bits a channel.
        MissingDependencyError: if Pillow is not installed.
    """
    pillow = load_pillow()
    try:
        with pillow.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InvalidInputError(
                    f"{path.name} has {picture.width} x {picture.height} pixels, which is too "
                    f"much; {MAX_PIXELS} are read at most."
                )
            if picture.mode.startswith(("I", "F")):
                raise InvalidInputError(
                    f"{path.name} has more than 8 bits a channel (mode {picture.mode}). "
                    "Save it with 8 bits."
                )
            return _tensor_from(picture.convert("RGB"))
    except InvalidInputError:
        raise
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise InvalidInputError(
            f"{path.name} in {path.parent.name} cannot be read as a picture. It may be damaged, or "
            "another kind of file."
        ) from error


def write_picture(path: Path, picture: Tensor, quality: int | None) -> None:
    """Write (H, W, 3) uint8: a JPEG of a quality from 1 to 95, or a PNG for None.

    Raises:
        MissingDependencyError: if Pillow is not installed.
    """
    image = load_pillow().fromarray(picture.contiguous().numpy())
    if quality is None:
        image.save(path, format="PNG")
    else:
        image.save(path, format="JPEG", quality=quality)


def square_picture(picture: Tensor, size: int) -> Tensor:
    """Cut the middle square out of (H, W, 3) uint8, as large as the short side, and resize it.

    The filter is Lanczos, as in the authors' preparation of data sets. A picture that has the size
    already is returned as it is.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = picture.shape[:2]
    if height == width == size:
        return picture
    pillow = load_pillow()
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = pillow.fromarray(picture.contiguous().numpy())
    cut = image.crop((left, top, left + side, top + side))
    return _tensor_from(cut.resize((size, size), pillow.Resampling.LANCZOS))


def _tensor_from(image: Any) -> Tensor:
    """Return (H, W, 3) uint8 of an RGB image."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.view(image.height, image.width, 3)
