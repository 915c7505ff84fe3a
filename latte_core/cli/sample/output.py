"""Where the videos of a `sample` run go: files of their own, or one grid."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...version import __version__
from ...video import (
    FrameStream,
    Grid,
    bytes_from_frames,
    check_target,
    enlarge_one_by_one,
    write_video,
)
from ...video.formats import format_for
from ...video.frame_folder import write_frame_folder
from ...video.pictures import load_pillow
from ..options import Progress
from .jobs import Job, Maker, in_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How videos are written.

    Args:
        factor: enlargement of the finished frames.
        fps: frames per second.
    """

    factor: int
    fps: float

    def check(self, target: Path, size: tuple[int, int, int]) -> None:
        """Raise now if a video of frames, height and width cannot be written."""
        frames, height, width = size
        check_target(target, frames, height * self.factor, width * self.factor, self.fps)

    def write(self, target: Path, frames: FrameStream, values: Mapping[str, Any]) -> None:
        """Write frames, with `values` in the file's comment where it holds one."""
        text = json.dumps({"latte": __version__, **values})
        write_video(
            target, frames, self.fps, metadata=text if format_for(target).holds_metadata else None
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameOutput(Output):
    """Writes each video as a folder of PNG files, which lose nothing."""

    def check(self, target: Path, size: tuple[int, int, int]) -> None:
        """Raise now if a video cannot be written."""
        load_pillow()
        check_target(target.with_name(f"{target.name}.png"), 1, *size[1:], self.fps)

    def write(self, target: Path, frames: FrameStream, values: Mapping[str, Any]) -> None:
        """Write frames; what they show is listed beside them."""
        write_frame_folder(target, (bytes_from_frames(one[None])[0] for one in frames.checked()))


def write_files(maker: Maker, jobs: Sequence[Job], targets: Sequence[Path], output: Output) -> None:
    """Make every video and write each to its own file."""
    for target in targets:
        output.check(target, maker.size)
    for job, target, frames in zip(jobs, targets, make_all(maker, jobs, output), strict=True):
        output.write(target, frames, {**maker.describe(job), **maker.recipe})
        say_written(target, frames, output)


def write_grid(
    maker: Maker, jobs: Sequence[Job], target: Path, output: Output, columns: int | None
) -> None:
    """Make every video and write all of them side by side into one.

    Args:
        columns: videos in a row; by default about as many as rows.

    Raises:
        InvalidInputError: for a number of columns out of range.
    """
    frames, height, width = maker.size
    grid = Grid.of(len(jobs), columns)
    size = grid.size(height * output.factor, width * output.factor)
    check_target(target, frames, *size, output.fps)
    joined = grid.join_one_by_one(list(make_all(maker, jobs, output)))
    described = [maker.describe(job) for job in jobs]
    output.write(target, joined, {**maker.recipe, "columns": grid.columns, "videos": described})
    say_written(target, joined, output)


def say_written(target: Path, frames: FrameStream, output: Output) -> None:
    """Print what was written."""
    count = frames.num_frames
    what = "picture" if count == 1 else f"{count} frames at {output.fps:g} per second"
    print(f"Wrote {target}: {what}, {frames.width} x {frames.height} pixels.")


def make_all(maker: Maker, jobs: Sequence[Job], output: Output) -> Iterator[FrameStream]:
    """Make every video, as many together as the maker does."""
    for batch in in_batches(jobs, maker.batch):
        yield from make_batch(maker, batch, output)


def make_batch(maker: Maker, jobs: Sequence[Job], output: Output) -> Iterator[FrameStream]:
    """Make several videos together, show their progress, and have each enlarged when written."""
    if len(jobs) == 1:
        yield make(maker, jobs[0], output)
        return
    with _progress(f"{maker.title(jobs[0])} and {len(jobs) - 1} more") as progress:
        made = maker.make_together(jobs, progress)
    yield from (enlarge_one_by_one(frames, output.factor) for frames in made)


def make(maker: Maker, job: Job, output: Output) -> FrameStream:
    """Make one video, show its progress, and have its frames enlarged while they are written."""
    with _progress(maker.title(job)) as progress:
        return enlarge_one_by_one(maker.make(job, progress), output.factor)


@contextmanager
def _progress(title: str) -> Generator[Progress]:
    progress = Progress(title)
    try:
        yield progress
    finally:
        progress.close()
