"""Which device to run on, what it computes well in, and how it says that its memory is used up."""

from __future__ import annotations

from typing import Any

import torch

from .errors import InvalidInputError

BFLOAT16_SINCE = (8, 0)  # compute capability of NVIDIA cards: RTX 30 series, A100
# Libraries say it in a plain RuntimeError: torch's types stand for its own allocators alone.
EXHAUSTED = (
    "out of memory",  # "CUDA error: ...", "HIP error: ...", "MPS backend ...", Triton's launches
    "_alloc_failed",  # CUBLAS_STATUS_..., CUDNN_STATUS_..., HIPBLAS_STATUS_..., CUSPARSE_STATUS_...
    "_allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_..., as cuDNN 9 says it
    "miopenstatusallocfailed",
    "rocblas_status_memory_error",
    "out_of_device_memory",  # of Intel's cards
    "out_of_host_memory",
    "result_error_out_of_resources",
    "invalid buffer size",  # of Apple's chips
    "not enough gpu video memory",  # DirectML
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)


def pick_device(device: torch.device | str | None) -> torch.device:
    """Return the device to run on: as asked, else the accelerator, else the CPU.

    Raises:
        InvalidInputError: for a word that names no device, or a device that is not there.
    """
    if device is None:
        found = torch.accelerator.is_available()
        return torch.device(torch.accelerator.current_accelerator() or "cpu" if found else "cpu")
    try:
        chosen = torch.device(device)
        # Torch says whether it can use a device only by using it.
        torch.empty(1, device=chosen)
        if chosen.type == "meta":
            raise NotImplementedError("a device that holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInputError(
            f"device is {str(device)!r}, but this torch ({torch.__version__}) cannot use it here. "
            f"It can use {', '.join(_devices_here())}. Give one of these, or leave it out. If the "
            "machine has such a card, install the torch that is built for it and its driver."
        ) from error
    return chosen


def _devices_here() -> list[str]:
    """Return the names of the devices that can be used, the accelerators first."""
    found = ["cpu"]
    if torch.accelerator.is_available():
        current = torch.accelerator.current_accelerator()
        kind = "" if current is None else current.type
        found = [*(f"{kind}:{k}" for k in range(torch.accelerator.device_count())), *found]
    return found


def is_cuda(device: torch.device) -> bool:
    """Whether `torch.cuda` speaks for a device: an NVIDIA or AMD card."""
    module: Any = getattr(torch, device.type, None)
    return module is torch.cuda and torch.cuda.is_available()


def half_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where a device has it in hardware, else float16.

    Torch says that NVIDIA's cards before 8.0 support bfloat16, as they emulate it: without the fast
    kinds of attention, which takes several times the memory.
    """
    if not is_cuda(device):
        return torch.bfloat16
    if torch.version.hip:
        has_it = torch.cuda.is_bf16_supported()
    else:
        has_it = torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE
    return torch.bfloat16 if has_it else torch.float16


def pick_dtype(device: torch.device, *, is_small: bool) -> torch.dtype:
    """Return float32 where half precision gains nothing, else a half type the device has."""
    if device.type == "cpu" or is_small:
        return torch.float32
    return half_type(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or main memory, has no room left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(mark in text for mark in EXHAUSTED)
