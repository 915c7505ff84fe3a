"""Single pictures as bytes: reading, writing and cutting to a square, with Pillow.

Pictures are read as a person sees them: upright, transparent parts on white, eight bits a channel.
"""

from __future__ import annotations

import importlib
import logging
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import is_out_of_memory
from ..errors import InvalidInputError, MissingDependencyError, UnreadableMediaError

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
    + (".jfif", ".jpe", ".tga", ".jp2", ".avif")
)
MAX_PIXELS = 2**26  # of one picture; larger ones are a mistake or an attack
ORIENTATION = 0x0112  # in EXIF
UPRIGHT = {  # how Pillow turns what lies as EXIF says
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# What Pillow's readers raise for damaged files: nothing of it is a fault of this package.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError)
DAMAGED_TOO = (ArithmeticError, RuntimeError, struct.error, zlib.error)
WHITE = (255, 255, 255)
SIXTEEN_BITS = 65535

logger = logging.getLogger("latte")


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


def read_picture(path: Path, *, max_pixels: int | None = None) -> Tensor:
    """Read a picture: upright, transparent parts on white, 16 bits brought to 8, grey as RGB.

    Args:
        path: of the picture.
        max_pixels: most that it may have, known from its header; `MAX_PIXELS` if left out.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableMediaError: if it cannot be read, is too large, or holds numbers of no fixed
            range.
        MissingDependencyError: if Pillow is not installed.
    """
    with closing(read_animation(path, 1, max_pixels=max_pixels)) as pictures:
        return next(pictures)


def read_animation(path: Path, most: int, *, max_pixels: int | None = None) -> Generator[Tensor]:
    """Yield the first pictures of a file that may hold several, as `read_picture` reads one.

    Raises:
        As `read_picture`.
    """
    with _opened(path, MAX_PIXELS if max_pixels is None else max_pixels) as picture:
        picture.load()  # Pillow itself turns a TIFF upright, and forgets its orientation
        turn = UPRIGHT.get(_orientation(picture))
        for index in range(min(getattr(picture, "n_frames", 1), most)):
            if index:
                picture.seek(index)
            shown = _opaque(_eight_bits(path, picture))
            if turn is not None:
                shown = shown.transpose(getattr(load_pillow().Transpose, turn))
            yield _tensor_from(shown)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Generator[Any]:
    """Open a picture, if its header says a size that can be read; damage is an error of ours."""
    pillow = load_pillow()
    with warnings.catch_warnings():
        # Pillow warns of sizes that are refused here, and of metadata that is not used.
        warnings.simplefilter("ignore")
        try:
            with pillow.open(path) as picture:
                if picture.width * picture.height > max_pixels:
                    raise UnreadableMediaError(
                        f"{path.name} has {picture.width} x {picture.height} pixels, which are "
                        f"more than the {max_pixels:,} that are taken."
                    )
                yield picture
        except InvalidInputError:
            raise
        except (*DAMAGED, *DAMAGED_TOO, pillow.DecompressionBombError) as error:
            if is_out_of_memory(error):
                raise
            raise UnreadableMediaError(
                f"{path.name} in {path.parent.name} cannot be read as a picture. It may be "
                "damaged, or another kind of file."
            ) from error


def _orientation(picture: Any) -> int:
    """Return how a picture lies as EXIF says; 1, which is upright, where that is damaged."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except (*DAMAGED, *DAMAGED_TOO):
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(path: Path, picture: Any) -> Any:
    """Return a picture of up to 8 bits a channel; grey of 16 bits keeps its whole range."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    pillow = load_pillow()
    values = picture.convert("I")
    lowest, highest = values.getextrema()
    if picture.mode.startswith("F") or lowest < 0 or highest > SIXTEEN_BITS:
        raise UnreadableMediaError(
            f"{path.name} has more than 16 bits a channel (mode {picture.mode}), which have no "
            "fixed white. Save it with 8 or 16 bits."
        )
    numbers = torch.frombuffer(bytearray(values.tobytes()), dtype=torch.int32)
    grey = ((numbers * 255 + SIXTEEN_BITS // 2) // SIXTEEN_BITS).to(torch.uint8)
    return pillow.frombytes("L", values.size, grey.numpy().tobytes())


def _opaque(picture: Any) -> Any:
    """Return a picture in RGB, transparent parts on white; one line says so."""
    if "A" not in picture.mode.upper() and "transparency" not in picture.info:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    if layers.getchannel("A").getextrema()[0] == 255:
        return layers.convert("RGB")
    logger.warning("Transparent pictures (alpha): what is transparent is shown white.")
    ground = load_pillow().new("RGBA", layers.size, (*WHITE, 255))
    ground.alpha_composite(layers)
    return ground.convert("RGB")


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
