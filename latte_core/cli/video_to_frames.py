"""`video-to-frames`: videos to folders of square pictures, as the authors prepare data sets."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..checks import MAX_PIXELS, check_integer
from ..errors import InvalidInputError, UnreadableMediaError
from ..video.frame_folder import remove_unfinished, write_frame_folder
from ..video.pictures import square_picture
from ..video.stream import VideoSource, find_videos
from .command import LEFT_OUT, Command

SIZE = 256
QUALITY = 75  # of the authors' frames: their tool asks for 95 under a name that is not read
BEST_QUALITY = 95

logger = logging.getLogger("latte")

DESCRIPTION = """\
Turn a video, or every video below a folder, into a folder with one picture per frame: the middle
square, as large as the short side, resized with a Lanczos filter and written as 000000.jpg,
000001.jpg and so on. This is how the authors prepare real videos before they measure FVD.
Videos that cannot be read are left out and counted; the exit code is 3 then.
"""
EXAMPLES = """\
examples:
  python -m latte_core video-to-frames UCF-101 ucf101_frames
  python -m latte_core video-to-frames clip.mp4 frames --size 128 --quality 95
  python -m latte_core video-to-frames faces faces_frames --png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `video-to-frames`."""
    add = parser.add_argument
    add("source", metavar="IN", help="a video file, or a folder of them at any depth")
    add("target", metavar="OUT", help="folder for the frame folders; whole ones are kept")
    add("--size", type=int, default=SIZE, help=f"height and width in pixels (default: {SIZE})")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--quality",
        type=int,
        help=f"of the JPEG files, 1 to {BEST_QUALITY} (default: {QUALITY}, as the authors' have)",
    )
    kinds.add_argument("--png", action="store_true", help="write PNG files, which lose nothing")


def run(arguments: argparse.Namespace) -> int:
    """Write every frame folder that is missing."""
    size = check_integer("--size", arguments.size, 8, MAX_PIXELS)
    quality = QUALITY if arguments.quality is None else arguments.quality
    kind = "PNG"
    if not arguments.png:
        kind = f"JPEG quality {check_integer('--quality', quality, 1, BEST_QUALITY)}"
    source, root = Path(arguments.source), Path(arguments.target)
    videos = [one_video(source)] if source.is_file() else find_videos(source)
    targets = target_folders(root, videos)
    existing, damaged = 0, list[str]()
    for video, target in zip(videos, targets, strict=True):
        if target.exists():
            existing += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target)
        squares = (square_picture(frame, size) for frame in video.frames())
        try:
            count = write_frame_folder(target, squares, quality=None if arguments.png else quality)
        except UnreadableMediaError as error:
            damaged.append(str(error))
            logger.warning("Left out: %s", error)
            continue
        print(f"Wrote {target}: {count} frames, {size} x {size} pixels, {kind}.")
    if existing:
        print(f"{existing} of {len(videos)} videos are in {root} already.")
    if len(damaged) == len(videos):
        raise InvalidInputError(
            damaged[0]
            if len(videos) == 1
            else f"None of the {len(videos)} videos can be read. The first: {damaged[0]}"
        )
    if damaged:
        print(f"{len(damaged)} of {len(videos)} videos cannot be read and are left out.")
    return LEFT_OUT if damaged else 0


def one_video(path: Path) -> VideoSource:
    """Return a single file as a video."""
    return VideoSource(name=path.name, path=path)


def target_folders(root: Path, videos: list[VideoSource]) -> list[Path]:
    """Return a folder for each video: its path without the ending.

    Raises:
        InvalidInputError: if two videos would share one.
    """
    targets = [
        root / (video.name if video.pictures else str(Path(video.name).with_suffix("")))
        for video in videos
    ]
    taken: dict[Path, str] = {}
    for video, target in zip(videos, targets, strict=True):
        if target in taken:
            raise InvalidInputError(
                f"{taken[target]} and {video.name} would be written to one folder, {target.name}. "
                "Rename one of them."
            )
        taken[target] = video.name
    return targets


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
