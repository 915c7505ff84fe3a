"""Bytes that are alive on the fake card, and host memory that is pinned."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class LiveBytes:
    """Follows storages on the card: how many bytes are alive, and the most there were.

    Args:
        total: bytes of the card.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.now = 0
        self.peak = 0
        self._known: dict[int, int] = {}

    def follow(self, held: Tensor) -> None:
        """Count the storage of a tensor if it is not known yet.

        Raises:
            torch.OutOfMemoryError: if the card has no room for it.
        """
        storage = held.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        if self.now + size > self.total:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. The fake card has "
                f"{self.total / 2**30:.2f} GiB, of which {self.now / 2**30:.2f} GiB are in use."
            )
        self._known[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)


class PinnedMemory:
    """Remembers which storages on the host are pinned."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def add(self, tensor: Tensor) -> Tensor:
        """Call the memory of a tensor pinned from now on; return the tensor."""
        storage = tensor.untyped_storage()
        # the reference keeps the address from being given to another storage
        self._known[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor is in pinned memory."""
        return tensor.untyped_storage()._cdata in self._known
