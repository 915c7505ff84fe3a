"""Several videos of one size side by side in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidInputError
from .frames import FrameStream

GAP = 2  # black pixels between videos
MAX_COLUMNS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Rows and columns for a number of videos; places that are left over stay black.

    Args:
        rows, columns: >= 1.
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, count: int, columns: int | None = None) -> Grid:
        """Return the grid for `count` videos; without `columns`, about as wide as it is high.

        Raises:
            InvalidInputError: for a number of columns out of range.
        """
        if columns is None:
            columns = math.ceil(math.sqrt(count))
        columns = min(check_integer("columns", columns, 1, MAX_COLUMNS), count)
        return cls(rows=-(-count // columns), columns=columns)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the grid for videos of this size."""
        rows, columns = self.rows, self.columns
        return rows * height + (rows - 1) * GAP, columns * width + (columns - 1) * GAP

    def join(self, videos: Sequence[Tensor]) -> Tensor:
        """Return one video (F, H, W, 3) of videos (F, h, w, 3), row by row.

        Raises:
            InvalidInputError: if they differ in size, or are more than there are places.
        """
        shapes = {tuple(video.shape) for video in videos}
        if len(shapes) != 1 or len(videos) > self.rows * self.columns:
            raise InvalidInputError(
                f"{len(videos)} videos of sizes {sorted(shapes)} do not fit a grid of {self.rows} "
                f"x {self.columns}. Give videos of one size, as many as there are places at most."
            )
        frames, height, width, channels = videos[0].shape
        grid = torch.zeros(
            (frames, *self.size(height, width), channels), dtype=videos[0].dtype
        )  # F H W 3
        for place, video in enumerate(videos):
            top = place // self.columns * (height + GAP)
            left = place % self.columns * (width + GAP)
            grid[:, top : top + height, left : left + width] = video
        return grid

    def join_one_by_one(self, videos: Sequence[FrameStream]) -> FrameStream:
        """Return what `join` does, each frame when it is asked for.

        Args:
            videos: of one size, as many as there are places at most.
        """
        height, width = self.size(videos[0].height, videos[0].width)
        together = zip(*(video.frames for video in videos), strict=True)
        return FrameStream(
            num_frames=videos[0].num_frames,
            height=height,
            width=width,
            frames=(self.join([frame[None] for frame in frames])[0] for frames in together),
        )
