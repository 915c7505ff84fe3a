"""The file formats of `formats.json`, and what may be written in each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError

FORMATS_FILE = Path(__file__).with_name("formats.json")
FrameRate = int | float | Fraction


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFormat:
    """One container with its encoder.

    Args:
        name: file extension without the dot.
        description: for people.
        encoder: ffmpeg's name of the encoder.
        arguments: ffmpeg output options, one item each.
        alignment: height and width must be multiples of it.
        max_frames: most frames a file can hold, or None.
        max_fps: highest frame rate.
        holds_metadata: whether a comment can be stored.
    """

    name: str
    description: str
    encoder: str
    arguments: tuple[str, ...]
    alignment: int
    max_frames: int | None
    max_fps: int
    holds_metadata: bool

    def check_frames(self, num_frames: int) -> None:
        """Check that a file can hold so many frames.

        Raises:
            InvalidInputError: saying how many it can.
        """
        if self.max_frames is not None and num_frames > self.max_frames:
            raise InvalidInputError(
                f"A {self.name} file holds {self.max_frames} frame, but the video has "
                f"{num_frames}. Use a name that ends in .mp4, .webm or .gif."
            )

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Check that a video of this size can be stored.

        Raises:
            InvalidInputError: naming what does not fit and the nearest that does.
        """
        self.check_frames(num_frames)
        for side, value in (("height", height), ("width", width)):
            if value % self.alignment:
                raise InvalidInputError(
                    f"The {side} is {value} pixels, but {self.name} files need a multiple of "
                    f"{self.alignment}. The nearest are {value - value % self.alignment} and "
                    f"{value - value % self.alignment + self.alignment}; gif takes any size."
                )

    def check_rate(self, fps: FrameRate) -> Fraction:
        """Return frames per second as a fraction of thousandths.

        Raises:
            InvalidInputError: for a rate that is not above 0 and at most the format's highest.
        """
        if isinstance(fps, bool) or not math.isfinite(fps) or not 0.001 <= fps <= self.max_fps:
            raise InvalidInputError(
                f"fps is {fps!r}, but a {self.name} file needs a number from 0.001 to "
                f"{self.max_fps}. Latte's clips are made for 8."
            )
        return Fraction(round(fps * 1000), 1000)


def load_formats() -> dict[str, VideoFormat]:
    """Read the format table, by extension."""
    table: dict[str, dict[str, Any]] = json.loads(FORMATS_FILE.read_text(encoding="ascii"))
    return {name: _format_from(name, entry) for name, entry in table.items()}


def _format_from(name: str, entry: dict[str, Any]) -> VideoFormat:
    rest = {key: value for key, value in entry.items() if key != "arguments"}
    return VideoFormat(name=name, arguments=tuple(entry["arguments"]), **rest)


def format_for(path: Path) -> VideoFormat:
    """Return the format that the extension of `path` names.

    Raises:
        InvalidInputError: for an extension without a format, listing those there are.
    """
    formats = load_formats()
    extension = path.suffix.lower().removeprefix(".")
    if extension not in formats:
        known = ", ".join(f".{name}" for name in formats)
        raise InvalidInputError(
            f"{path.name!r} does not say which kind of file to write: its ending is "
            f"{path.suffix!r}, but it must be one of {known}."
        )
    return formats[extension]
