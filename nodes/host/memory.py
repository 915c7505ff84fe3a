"""Tell running out of memory from other errors; the one place that reads a message for it."""

from __future__ import annotations

import torch

# CPU and MPS raise a plain RuntimeError with one of these.
EXHAUSTED = (
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "mps backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in EXHAUSTED)
