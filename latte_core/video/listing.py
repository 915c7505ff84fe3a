"""What a folder shows: in the order of its numbers, without what systems leave behind in it.

Every part of the package that reads folders of videos or frames lists them here.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..errors import InvalidInputError

NUMBERS = re.compile(r"(\d+)")
# Of storage systems, archives, synchronisation and repairs, in lower case. Names that begin with a
# dot, such as .DS_Store, .AppleDouble or ._clip.mp4, are hidden and need no list.
LEFT_BEHIND = frozenset(
    ("@eadir", "#recycle", "#snapshot", "@tmp", "@sharesnap", "@recycle", "@recently-snapshot")
    + ("@__thumb", "@transcode", "~snapshot", "$recycle.bin", "recycler", "recycled", "lost.dir")
    + ("system volume information", "lost+found", "__macosx", "network trash folder")
    + ("temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "_gsdata_")
    + ("__pycache__",)
)
REPAIRED = re.compile(r"found\.\d{3}", re.IGNORECASE)  # where Windows puts what a repair found
# Endings of pictures, videos and recordings that are not read; they are counted and told.
NOT_READ = frozenset(
    (".heic", ".heif", ".jxl", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd")
    + (".svg", ".rm", ".rmvb", ".braw", ".r3d", ".swf", ".yuv", ".rgb", ".bik", ".wtv")
)

logger = logging.getLogger("latte")


def natural_key(path: Path) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """Return a sort key that puts frame_2 before frame_10, whatever the case of the letters."""
    pieces = (piece for piece in NUMBERS.split(path.name.casefold()) if piece)
    by_number = tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces)
    return by_number, path.name


def is_left_behind(path: Path) -> bool:
    """Whether a name says that a file or folder is hidden, or a system's own."""
    name = path.name
    return name.startswith(".") or name.lower() in LEFT_BEHIND or bool(REPAIRED.fullmatch(name))


def entries_of(folder: Path) -> list[Path]:
    """Return what a folder holds in the order of its numbers, but for what systems leave behind.

    Raises:
        InvalidInputError: if it cannot be listed.
    """
    try:
        return sorted((p for p in folder.iterdir() if not is_left_behind(p)), key=natural_key)
    except OSError as error:
        raise InvalidInputError(
            f"The folder {folder.name} cannot be listed: {error.strerror}. Check its permissions."
        ) from error


def tell_not_read(folders: Iterable[Path]) -> None:
    """Say in one line how many pictures and videos of these folders are of a kind not read."""
    found = [
        entry
        for folder in dict.fromkeys(folders)
        for entry in entries_of(folder)
        if entry.suffix.lower() in NOT_READ
    ]
    if not found:
        return
    kinds = Counter(entry.suffix.lower() for entry in found)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
    logger.warning(
        "%d files are of a kind that is not read and are left out (%s), such as %s. Convert them "
        "to png or mp4 to have them used.",
        len(found),
        listed,
        found[0].name,
    )
