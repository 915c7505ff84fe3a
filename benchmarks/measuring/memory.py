"""Memory that a call works in: traced on meta tensors, or as this process holds it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from measuring.counting import AttentionAsOneOp

# One thread, and a C library that gives freed memory back at once: else the peak hides in it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
MIB = 2**20


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operators make: how many bytes are alive, and the most there were.

    Storages that existed before are not counted, whatever is done with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {id_of(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        out = func(*args, **kwargs)
        for one in tree_leaves(out):
            if isinstance(one, Tensor) and id_of(one) not in given:
                self._follow(one.untyped_storage())
        return out

    def _follow(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)


def id_of(tensor: Tensor) -> int:
    """Return what tells the storage of a tensor from those of others."""
    return tensor.untyped_storage()._cdata


@torch.no_grad()
def peak_of(call: Callable[[], Any]) -> int:
    """Return the most bytes alive at once during a call."""
    live = LiveBytes()
    with AttentionAsOneOp(), live:
        call()
    return live.peak


def resident_bytes(entry: str) -> int:
    """Return the resident size of this process (VmRSS) or its peak (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {entry}.")


def reset_peak() -> None:
    """Let the peak begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
