"""Copies to an accelerator that nobody waits for.

A copy from pageable memory has the CPU wait until the device has done all that it was asked, and
then the device waits for the CPU. From pinned memory it is one more entry in the device's queue.
"""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: itself where it is there, else a copy in the device's queue.

    Pageable memory may be written to or dropped at once, pinned memory only dropped.
    """
    if _is_upload(tensor, device):
        return pinned(tensor).to(device, non_blocking=True)
    return tensor.to(device)


def send_into(place: Tensor, tensor: Tensor) -> None:
    """Write a tensor into one of its shape, as `send` does."""
    if _is_upload(tensor, place.device):
        place.copy_(pinned(tensor), non_blocking=True)
    else:
        place.copy_(tensor)


def pinned(tensor: Tensor) -> Tensor:
    """Return a CPU tensor in pinned memory: itself where it is there, or where there is none."""
    try:
        return tensor.pin_memory()
    except RuntimeError:  # virtual machines and full systems: slower, and the same
        return tensor


def _is_upload(tensor: Tensor, device: torch.device) -> bool:
    """Whether a copy comes from the CPU and CUDA can take it from pinned memory.

    A graph under way would keep the place of the pinned memory, and copy what is there by then: it
    is better refused, as copies from pageable memory are.
    """
    return (
        tensor.device.type == "cpu"
        and getattr(torch, device.type, None) is torch.cuda
        and not torch.cuda.is_current_stream_capturing()
    )
