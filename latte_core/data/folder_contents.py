"""What lies in one folder: videos, pictures and sub-folders, by their names and first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputError
from ..video.listing import entries_of
from ..video.pictures import is_picture
from ..video.stream import is_video_name

MORE_VIDEO_SUFFIXES = frozenset({".3gp"})
EITHER_SUFFIX = ".webp"  # an animation or a picture
WEBP_FLAGS_AT = 20
WEBP_IS_ANIMATED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a folder holds, in the order of its numbers; files of other kinds are left out."""

    videos: tuple[Path, ...]
    pictures: tuple[Path, ...]
    folders: tuple[Path, ...]

    @property
    def in_words(self) -> str:
        """The counts, for a message."""
        return (
            f"{len(self.videos)} videos, {len(self.pictures)} pictures and "
            f"{len(self.folders)} folders"
        )


def contents_of(folder: Path) -> Contents:
    """Return what a folder holds.

    Raises:
        InvalidInputError: if it cannot be listed.
    """
    entries = entries_of(folder)
    try:
        folders = tuple(one for one in entries if one.is_dir())
    except OSError as error:
        raise InvalidInputError(
            f"The folder {folder.name} cannot be listed: {error.strerror}. Check its permissions."
        ) from error
    files = [one for one in entries if one not in folders]
    videos = tuple(one for one in files if is_video(one))
    pictures = tuple(one for one in files if one not in videos and is_picture(one))
    return Contents(videos=videos, pictures=pictures, folders=folders)


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video; .webp files are looked into."""
    suffix = path.suffix.lower()
    is_named = is_video_name(path) or suffix in MORE_VIDEO_SUFFIXES
    return is_named or (suffix == EITHER_SUFFIX and is_animated_webp(path))


def is_animated_webp(path: Path) -> bool:
    """Whether the first bytes of a file are those of an animated WebP."""
    try:
        with path.open("rb") as handle:
            start = handle.read(WEBP_FLAGS_AT + 1)
    except OSError:
        return False
    is_extended = len(start) > WEBP_FLAGS_AT and start[8:16] == b"WEBPVP8X"
    return is_extended and bool(start[WEBP_FLAGS_AT] & WEBP_IS_ANIMATED)


def relative_name(root: Path, path: Path) -> str:
    """Return the place of a file in a folder, with forward slashes."""
    return path.relative_to(root).as_posix()
