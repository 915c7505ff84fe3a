"""Frames to video files and back."""

from __future__ import annotations

from .formats import load_formats
from .frames import bytes_from_frames, enlarge, frames_from_bytes
from .grid import Grid
from .reader import VideoFile, read_video
from .writer import check_target, write_image, write_video

__all__ = [
    "Grid",
    "VideoFile",
    "bytes_from_frames",
    "check_target",
    "enlarge",
    "frames_from_bytes",
    "load_formats",
    "read_video",
    "write_image",
    "write_video",
]
