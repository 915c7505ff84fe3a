"""Weights on their way to a device: from page-locked memory, where the system gives some.

Only such memory is read by a device itself, beside the work of both processors. Weights that are
copied often are kept in it for good; others pass through two buffers in turn: while the device
reads one, the next piece is written into the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 256  # bytes, as kernels like addresses
BUFFER_BYTES = 2**25  # of each of the two buffers
LARGEST_BLOCK = 2**28
SPARE = 8  # at most one part in so many of a block for the last tensors stays empty
WORTH = 2**17  # bytes of a tensor that goes through a buffer; smaller ones are copied as they are

logger = logging.getLogger("latte")


class Buffer:
    """A piece of page-locked memory, and when the device has read what is in it."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.read: Any = None  # an event

    def wait(self) -> None:
        """Return when it can be written again."""
        if self.read is not None:
            self.read.synchronize()
            self.read = None


class PinnedMemory:
    """Page-locked main memory: two buffers, and blocks that weights are kept in.

    A system may give none, or not enough of it (WSL and Windows have limits of their own). Then
    weights are copied from where they are, which takes longer and changes nothing; that is said
    once. Torch rounds every request up to a power of two and keeps what is let go: so it is asked
    for powers of two alone, and what `num_bytes` counts is what is taken.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._has_failed = False
        self._buffers: list[Buffer] | None = None

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Move the numbers of tensors into page-locked memory, as many as there is room for."""
        self._ready_buffers()  # they come first: with them, the rest can do without
        left = list({id(one): one for one in tensors if not one.is_pinned()}.values())
        for block in blocks_for([num_bytes_of(one) for one in left]):
            memory = self._take(block.num_bytes)
            if memory is None:
                return
            start = 0
            for tensor in left[block.first : block.first + block.num_tensors]:
                size = num_bytes_of(tensor)
                place = view_as(memory[start : start + size], tensor)
                place.copy_(tensor.detach())
                tensor.data = place
                start += aligned(size)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy to a device, on its current stream, without waiting for it.

        Args:
            target: on the device, with the type, sizes and strides of `source`.
            source: in main memory; it may be changed as soon as this returns, unless it is
                page-locked itself.
        """
        buffers = self._ready_buffers()
        given, place = flat_bytes(source), flat_bytes(target)
        is_direct = not buffers or num_bytes_of(source) < WORTH or source.is_pinned()
        if is_direct or given is None or place is None:
            target.copy_(source, non_blocking=True)
            return
        stream: Any = torch.cuda.current_stream(target.device)
        for start in range(0, given.numel(), BUFFER_BYTES):
            part = given[start : start + BUFFER_BYTES]
            buffer = buffers.pop(0)
            buffers.append(buffer)
            buffer.wait()
            held = buffer.memory[: part.numel()]
            held.copy_(part)
            place[start : start + part.numel()].copy_(held, non_blocking=True)
            buffer.read = stream.record_event()

    def _ready_buffers(self) -> list[Buffer]:
        """Return the buffers, the next one first; none where there is no such memory."""
        if self._buffers is None:
            made = [self._take(BUFFER_BYTES) for _ in range(2)]
            self._buffers = [Buffer(one) for one in made if one is not None]
        return self._buffers

    def _take(self, num_bytes: int) -> Tensor | None:
        """Return page-locked memory, or None from the first time on that there is none."""
        if self._has_failed:
            return None
        try:
            memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except (RuntimeError, MemoryError) as error:
            self._has_failed = True
            logger.warning(
                "No page-locked memory is left (%s), so weights go to the device from ordinary "
                "memory. That takes longer and changes nothing else.",
                str(error).partition("\n")[0],
            )
            return None
        self.num_bytes += num_bytes
        return memory


class Block(NamedTuple):
    """A piece of page-locked memory, and which tensors of a sequence go into it."""

    num_bytes: int
    first: int
    num_tensors: int


def blocks_for(sizes: Sequence[int]) -> Iterator[Block]:
    """Yield blocks whose sizes are powers of two for tensors in their order.

    The last ones get smaller, so that no more than an eighth of what is left stays empty, or, in
    every block, less than a tensor.
    """
    first, left = 0, sum(aligned(size) for size in sizes)
    while first < len(sizes):
        block = _block_size(left, aligned(sizes[first]))
        used, last = 0, first
        while last < len(sizes) and used + aligned(sizes[last]) <= block:
            used += aligned(sizes[last])
            last += 1
        yield Block(block, first, last - first)
        first, left = last, left - used


def _block_size(left: int, least: int) -> int:
    """Return the size of the next block for `left` bytes, the first `least` of them together."""
    whole = power_of_two(left)
    if whole - left > whole // SPARE:
        whole //= 2
    return max(min(whole, LARGEST_BLOCK), power_of_two(least))


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below a size."""
    return 1 << max(size - 1, 0).bit_length()


def aligned(size: int) -> int:
    """Return a number of bytes rounded up to whole places for tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def num_bytes_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def view_as(memory: Tensor, tensor: Tensor) -> Tensor:
    """Return bytes as a tensor of the same dtype, shape and, for a turned matrix, order."""
    flat = memory.view(tensor.dtype)
    if _is_turned(tensor):
        return flat.view(tensor.t().shape).t()
    return flat.view(tensor.shape)


def flat_bytes(tensor: Tensor) -> Tensor | None:
    """Return the numbers of a tensor as bytes in the order of memory; None where they lie apart."""
    straight = tensor.detach().t() if _is_turned(tensor) else tensor.detach()
    return straight.reshape(-1).view(torch.uint8) if straight.is_contiguous() else None


def _is_turned(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous()
