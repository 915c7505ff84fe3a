"""Folders of videos as the clips, or pictures, that a protocol asks for.

Which videos, which start and which pictures are drawn from the protocol's seed. The start of a
clip depends on the seed and the video's name alone, so that adding videos moves no other clip.
Nothing is mirrored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import IncompatibleInputsError, InvalidInputError, UnreadableMediaError
from ..video.pictures import square_picture
from ..video.stream import VideoSource, find_videos
from .protocol import MetricProtocol
from .read_ahead import read_ahead

REAL, FAKE = "real", "fake"
CLIPS_AHEAD = 4  # read while the network is at work
MOST_NAMED = 20  # of the files that are left out
T = TypeVar("T")

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class SideReport:
    """What one side of a comparison was made of.

    Args:
        source: name of the folder or model.
        samples: clips, or pictures, that were measured.
        videos: videos that there are.
        too_short: of those looked at, how many had too few frames and were left out.
        damaged: how many could not be read and were left out: videos, or of pictures, pictures.
        details: what else decides the samples: how a model made them.
    """

    source: str
    samples: int
    videos: int
    too_short: int = 0
    damaged: int = 0
    details: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything that is set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Clips(Protocol):
    """Gives samples one by one, and says afterwards what they were."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield clips (F, H, W, 3) of bytes; a picture is a clip of one frame."""
        ...

    def report(self) -> SideReport:
        """Say what was given so far."""
        ...


class FolderClips:
    """The samples of a folder.

    Args:
        folder: video files, folders with one picture per frame, or both, at any depth.
        protocol: what to take from it.
        side: `real` or `fake`. The fake side must hold as many as the protocol asks for.

    Raises:
        InvalidInputError: if there are no videos, or too few on the fake side.
    """

    def __init__(self, folder: Path, protocol: MetricProtocol, side: str) -> None:
        self.folder, self.protocol, self.side = folder, protocol, side
        self.videos = find_videos(folder)
        self.samples = self.too_short = self.damaged = 0
        if side == FAKE and not protocol.uses_pictures:
            self._require(len(self.videos), "videos")

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the samples; a thread reads the next ones meanwhile."""
        self.samples = self.too_short = self.damaged = 0
        made = self._pictures() if self.protocol.uses_pictures else self._clips()
        with closing(read_ahead(made, CLIPS_AHEAD)) as samples:
            for frames in samples:
                self.samples += 1
                yield frames

    def report(self) -> SideReport:
        """Say what was given so far."""
        return SideReport(
            source=self.folder.name,
            samples=self.samples,
            videos=len(self.videos),
            too_short=self.too_short,
            damaged=self.damaged,
        )

    def _clips(self) -> Generator[Tensor | None]:
        """Yield the clip of each video, None for one that is too short."""
        order, found = list(self.videos), 0
        Random(f"{self.side} {self.protocol.seed}").shuffle(order)
        for video in order:
            if found == self.protocol.num:
                return
            frames = self._readable(partial(self._frames_of, video))
            if frames is None:
                yield None
            elif len(frames) < self.protocol.num_frames:
                self.too_short += 1
                yield None
            else:
                found += 1
                yield self._clip(video, frames)
        if self.side == FAKE:
            self._require(found, f"videos of {self.protocol.num_frames} frames")

    def _frames_of(self, video: VideoSource) -> list[Tensor]:
        """Return the frames to take, too few of them for a video that is too short."""
        protocol = self.protocol
        if self.side == FAKE:
            return video.pick([index * protocol.subsample for index in range(protocol.num_frames)])
        frames = self._real_frames(video, video.count_listed())
        if len(frames) < protocol.num_frames:  # it is too short, or shows less than it lists
            frames = self._real_frames(video, video.count())
        return frames

    def _real_frames(self, video: VideoSource, length: int) -> list[Tensor]:
        """Return frames from a start that is drawn, none if a real video is too short."""
        protocol = self.protocol
        if length < protocol.real_span:
            return []
        start = Random(f"{protocol.seed} {video.name}").randint(0, protocol.last_start(length))
        step = protocol.real_step
        return video.pick([start + index * step for index in range(protocol.num_frames)])

    def _readable(self, read: Callable[[], T]) -> T | None:
        """Return what is read, None if it cannot be: that is told, counted and left out."""
        try:
            return read()
        except UnreadableMediaError as error:
            self.damaged += 1
            if self.damaged <= MOST_NAMED:
                logger.warning("Left out of %s: %s", self.folder.name, error)
            return None

    def _pictures(self) -> Generator[Tensor | None]:
        """Yield the pictures, and None for each video that is counted before."""
        counts: list[int] = []
        for video in self.videos:
            counts.append(self._readable(video.count) or 0)
            yield None
        total = sum(counts)
        if self.side == FAKE:
            self._require(total, "frames")
        taken = min(total, self.protocol.num)
        drawn = Random(f"{self.side} {self.protocol.seed}")
        chosen, tried, given = sorted(drawn.sample(range(total), taken)), set[int](), 0
        while chosen:
            for picture in self._numbered(chosen, counts):
                given += picture is not None
                yield picture
            if given == taken:
                return
            # A picture that cannot be read gives its place to one that was not drawn yet.
            tried.update(chosen)
            rest = [number for number in range(total) if number not in tried]
            chosen = sorted(drawn.sample(rest, min(len(rest), taken - given)))
        if self.side == FAKE:
            self._require(given, "frames")

    def _numbered(self, chosen: Sequence[int], counts: Sequence[int]) -> Iterator[Tensor | None]:
        """Yield the pictures with these numbers, counted through all videos; None for damaged."""
        first = place = 0
        for video, count in zip(self.videos, counts, strict=True):
            numbers: list[int] = []
            while place < len(chosen) and chosen[place] < first + count:
                numbers.append(chosen[place] - first)
                place += 1
            first += count
            # Pictures of a folder are damaged one by one, those of a video file together.
            for some in [[one] for one in numbers] if video.pictures else [numbers]:
                found = self._readable(partial(video.pick, some))
                yield from [None] if found is None else (self._clip(video, [p]) for p in found)

    def _clip(self, video: VideoSource, frames: Sequence[Tensor]) -> Tensor:
        """Return the frames as one tensor, in the size the protocol asks for."""
        size = self.protocol.size
        if size is not None:
            frames = [square_picture(frame, size) for frame in frames]
        sizes = {tuple(frame.shape[:2]) for frame in frames}
        if len(sizes) > 1:
            raise IncompatibleInputsError(
                f"The frames of {video.name} have different sizes: {sorted(sizes)}. "
                "Give frames of one size, or --size to bring them to one."
            )
        return torch.stack(list(frames))

    def _require(self, found: int, what: str) -> None:
        """Refuse a fake side with too few samples."""
        needed = self.protocol.num
        damaged = f", and {self.damaged} that cannot be read" if self.damaged else ""
        if found < needed:
            raise InvalidInputError(
                f"{self.folder.name} holds {found} {what}{damaged}, but {self.protocol.name} needs "
                f"{needed} on the fake side. Make more, or ask for fewer with --num {found}; then "
                "the number is no longer comparable with published ones."
            )
