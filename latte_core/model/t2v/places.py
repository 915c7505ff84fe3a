"""Where the tokens of a clip are, in a picture and in time, as tables that are added to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...config.t2v import LatteT2VConfig
from ...errors import IncompatibleInputsError
from ...transfers import send
from ..positional import sincos_table, spatial_table, temporal_table
from .blocks import Grid

WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceTables:
    """The places of a clip's tokens: made once, used for every step.

    Args:
        spatial: (S, D) float32, added to the tokens of every frame.
        temporal: (1 or B, F, 1, D) float32, or None for a single frame without a place in time.
    """

    spatial: Tensor
    temporal: Tensor | None

    def check(self, grid: Grid) -> None:
        """Refuse tables of another clip.

        Raises:
            IncompatibleInputsError: naming both sizes.
        """
        expected = (grid.rows * grid.columns, grid.num_frames)
        frames = 1 if self.temporal is None else self.temporal.shape[1]
        videos = 1 if self.temporal is None else self.temporal.shape[0]
        found = (self.spatial.shape[0], frames)
        if found != expected or videos not in (1, grid.batch):
            raise IncompatibleInputsError(
                f"The tables of places are for {videos} videos of {found[1]} frames with "
                f"{found[0]} tokens each, but the latents are {grid.batch} videos of {expected[1]} "
                f"frames with {expected[0]}. Make them with place_tables for these latents."
            )


def make_tables(
    config: LatteT2VConfig, grid: Grid, positions: Tensor | None, device: torch.device
) -> PlaceTables:
    """Make the tables of a clip.

    Args:
        config: of the transformer.
        grid: layout of the tokens.
        positions: (F,) or (B, F) whole numbers >= 0, places in time; None means 0 .. F-1, and no
            place for a single frame.
        device: of the tables.

    Raises:
        IncompatibleInputsError: if the positions do not fit.
    """
    base = config.sample_size / config.patch_size
    scale = max(config.sample_size // 64, 1)
    width = config.hidden_size
    return PlaceTables(
        spatial=spatial_table(width, grid.rows, grid.columns, base, scale, device),
        temporal=times_table(width, grid, positions, device),
    )


def times_table(
    width: int, grid: Grid, positions: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return (1 or B, F, 1, D) float32, or None for a single frame without a place."""
    frames = grid.num_frames
    if positions is None:
        return None if frames == 1 else temporal_table(width, frames, device)[None, :, None]
    is_whole = positions.dtype in WHOLE_NUMBERS
    fits = positions.shape in ((frames,), (grid.batch, frames))
    if not is_whole or not fits or int(positions.min()) < 0:
        lowest = f", lowest {int(positions.min())}" if is_whole and fits else ""
        raise IncompatibleInputsError(
            f"The frame positions have shape {tuple(positions.shape)} and type "
            f"{positions.dtype}{lowest}, but {frames} of them, whole numbers from 0 on, are "
            "needed for all videos, or for each."
        )
    rows = sincos_table(width, positions.flatten().cpu()).view(-1, frames, 1, width)
    return send(rows, device)
