"""Frames to video files and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import listing, names_from

if TYPE_CHECKING:
    from .formats import load_formats
    from .frames import (
        FrameStream,
        bytes_from_frames,
        enlarge,
        enlarge_one_by_one,
        frames_from_bytes,
    )
    from .grid import Grid
    from .reader import VideoFile, read_video
    from .writer import check_target, write_image, write_video

__all__ = [
    "FrameStream",
    "Grid",
    "VideoFile",
    "bytes_from_frames",
    "check_target",
    "enlarge",
    "enlarge_one_by_one",
    "frames_from_bytes",
    "load_formats",
    "read_video",
    "write_image",
    "write_video",
]

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "formats": ("load_formats",),
        "frames": (
            "FrameStream",
            "bytes_from_frames",
            "enlarge",
            "enlarge_one_by_one",
            "frames_from_bytes",
        ),
        "grid": ("Grid",),
        "reader": ("VideoFile", "read_video"),
        "writer": ("check_target", "write_image", "write_video"),
    },
)
