"""Which frames a decoder gets together: by the size of the clip, and fewer where memory is short.

The frames of a temporal decoder depend a little on what it gets together: its group norms take
their statistics over all frames of a call. So the first plan follows from the size of the clip
alone, and a smaller one is taken only where memory would run out, with a notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import is_cuda, is_out_of_memory
from .tiling import SMALLEST_TILE, DecodePlan, frame_chunks, smaller_plans

WHOLE_CLIP = 16  # frames that a temporal decoder gets at once: what Latte is trained on
PIECE, CONTEXT = 14, 4  # frames kept of a longer clip, and read on each side of them
# Where a frame is so large that fewer than PIECE + 2 * CONTEXT can be counted:
SHORT_CONTEXT = 2
SHORTEST_PIECE = 3
CELLS_AT_ONCE = 4 * 64 * 64  # of an image VAE: four frames of 512 x 512 pixels
# Above 2^31 - 1 numbers in one tensor the kernels of accelerators count wrongly, slowly or not.
MAX_NUMBERS = 2**31 - 1
# Tensors alive at once in a residual block with as many channels as leave it, and while a level is
# enlarged, with as many as enter the next; `benchmarks/decoding.py` traces them.
ALIVE_IN_TEMPORAL_BLOCK, ALIVE_IN_BLOCK, ALIVE_ENLARGING = 6, 4, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """What a plan has to know of a decoder.

    Args:
        is_temporal: it looks along time.
        largest: numbers of its largest tensor for each latent cell of a frame.
        alive: numbers that are alive at once for each cell, at most.
    """

    is_temporal: bool
    largest: int
    alive: int

    @classmethod
    def of(cls, widths: Sequence[int], *, is_temporal: bool) -> Decoder:
        """Return the decoder with these channels, finest level first.

        A level begins with the channels of the one before, on its own number of pixels.
        """
        inside = ALIVE_IN_TEMPORAL_BLOCK if is_temporal else ALIVE_IN_BLOCK
        largest = alive = 0
        entering = widths[-1]
        for level, leaving in enumerate(reversed(widths)):
            pixels = 4**level
            largest = max(largest, pixels * max(entering, leaving))
            alive = max(
                alive, pixels * max(entering + inside * leaving, ALIVE_ENLARGING * entering)
            )
            entering = leaving
        return cls(is_temporal=is_temporal, largest=largest, alive=alive)

    def most_frames(self, cells: int) -> int:
        """Return how many frames of so many cells keep every tensor within `MAX_NUMBERS`."""
        return MAX_NUMBERS // (self.largest * cells)

    def bytes_for(self, cells: int, itemsize: int) -> int:
        """Return what one call on so many cells, of all frames, needs beside the weights.

        Args:
            cells: frames * height * width.
            itemsize: bytes of a number.
        """
        return self.alive * cells * itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSize:
    """One video in latent cells.

    Args:
        num_frames, height, width: >= 1.
    """

    num_frames: int
    height: int
    width: int

    @classmethod
    def of(cls, latents: Tensor) -> ClipSize:
        """Return the size of one of the videos (..., F, h, w)."""
        num_frames, height, width = latents.shape[-3:]
        return cls(num_frames=num_frames, height=height, width=width)

    def area(self, tile: int | None) -> int:
        """Return the cells of one frame, or of its tile."""
        if tile is None:
            return self.height * self.width
        return min(tile, self.height) * min(tile, self.width)

    def smaller_tile(self, tile: int | None) -> int:
        """Return half the edge of a tile, or of the frame."""
        edge = max(self.height, self.width) if tile is None else tile
        return max(SMALLEST_TILE, -(-edge // 2))


def plan_by_size(
    clip: ClipSize, decoder: Decoder, *, chunk: int | None = None, tile: int | None = None
) -> DecodePlan:
    """Return how much of a clip is decoded at a time: a function of its size, never of memory.

    A temporal decoder gets up to 16 frames whole and longer clips in pieces of 14, with 4 frames of
    surroundings on each side that are decoded and dropped. Frames above 512 x 512 pixels get
    shorter pieces, and at last tiles, so that no tensor holds more numbers than kernels can count.
    An image decoder, whose frames do not depend on it, gets what usually fits.

    Args:
        clip: one video.
        decoder: what decodes it.
        chunk: frames at a time without surroundings, in place of all this; as large as the clip
            decodes it whole. It is cut only where a tensor would hold too many numbers.
        tile: edge of a tile in cells; None is whole frames as long as one can be counted.
    """
    if chunk is None and decoder.is_temporal:
        return _plan_in_context(clip, decoder, tile)
    while (most := decoder.most_frames(clip.area(tile))) < 1 and tile != SMALLEST_TILE:
        tile = clip.smaller_tile(tile)
    usual = CELLS_AT_ONCE // clip.area(tile) if chunk is None else chunk
    return DecodePlan(chunk=max(1, min(usual, most, clip.num_frames)), tile=tile)


def _plan_in_context(clip: ClipSize, decoder: Decoder, tile: int | None) -> DecodePlan:
    """Return the plan for a temporal decoder when nobody asked for another."""
    while True:
        most = decoder.most_frames(clip.area(tile))
        if clip.num_frames <= min(WHOLE_CLIP, most):
            return DecodePlan(chunk=clip.num_frames, tile=tile)
        if most >= PIECE + 2 * CONTEXT:
            return DecodePlan(chunk=PIECE, tile=tile, context=CONTEXT)
        if most >= SHORTEST_PIECE + 2 * SHORT_CONTEXT:
            chunk = min(PIECE, most - 2 * SHORT_CONTEXT)
            return DecodePlan(chunk=chunk, tile=tile, context=SHORT_CONTEXT)
        if tile == SMALLEST_TILE:
            return DecodePlan(chunk=1, tile=tile)
        tile = clip.smaller_tile(tile)


class Plans:
    """The plan that a run works by, and the smaller ones behind it.

    Args:
        first: made by `plan_by_size`.
        clip: one video of the run.
        decoder: what decodes it.
    """

    def __init__(self, first: DecodePlan, clip: ClipSize, decoder: Decoder) -> None:
        self.first = self.now = first
        self._clip, self._decoder = clip, decoder
        sides = (clip.num_frames, clip.height, clip.width)
        self._smaller = smaller_plans(first, *sides, is_temporal=decoder.is_temporal)

    @property
    def is_smaller(self) -> bool:
        """Whether memory has made the plan smaller, which has to be said."""
        return self.now != self.first

    def needed(self, itemsize: int) -> int:
        """Return the bytes that the largest call of the plan needs beside the weights.

        Args:
            itemsize: bytes of a number.
        """
        return self._decoder.bytes_for(self._most_cells(self.now), itemsize)

    def fit(self, itemsize: int, room: float | None) -> None:
        """Take the first plan that needs no more than `room` bytes, or the smallest there is.

        Args:
            itemsize: bytes of a number.
            room: bytes that are free; None where nobody can say.
        """
        while room is not None and self.needed(itemsize) > room and self._take_smaller():
            pass  # until it fits or nothing smaller is left

    def run(self, work: Callable[[DecodePlan], Tensor], empty_cache: Callable[[], None]) -> Tensor:
        """Do the work by the plan; where memory runs out, again by the next smaller one.

        The error reaches the caller if nothing smaller is left.

        Args:
            work: called with a plan.
            empty_cache: gives back what a failed call held.
        """
        while (result := _attempt(work, self.now)) is None:
            # Outside the except block: what the failed call held is free here.
            empty_cache()
            if not self._take_smaller():
                return work(self.now)
        return result

    def _take_smaller(self) -> bool:
        """Go on to the next plan that needs less, if there is one."""
        cells = self._most_cells(self.now)
        for plan in self._smaller:
            if self._most_cells(plan) < cells:
                self.now = plan
                return True
        return False

    def _most_cells(self, plan: DecodePlan) -> int:
        """Return how many cells, of all frames, the largest call of a plan gets."""
        chunks = frame_chunks(self._clip.num_frames, plan.chunk, plan.context)
        most = max(chunk.read[1] - chunk.read[0] for chunk in chunks)
        return most * self._clip.area(plan.tile)


def _attempt(work: Callable[[DecodePlan], Tensor], plan: DecodePlan) -> Tensor | None:
    """Return the result, or None if memory ran out."""
    try:
        return work(plan)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes a call can have on an accelerator with memory of its own, else None.

    What torch keeps without using it counts as free.
    """
    if not is_cuda(device):
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def free_cached_memory() -> None:
    """Give cached blocks back to the accelerator, so that the next try finds them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
