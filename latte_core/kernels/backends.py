"""Which of torch's own attention kernels are asked on a GPU, and what is done where one fails."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..devices import is_out_of_memory

NAMED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ORDERS: tuple[list[SDPBackend] | None, ...] = (None, NAMED, [SDPBackend.MATH])
"""What may be asked, from torch's own choice to the kernel that takes anything."""

ONE_ORDER = threading.Lock()
"""Held while an order is set: the switches behind it belong to the process, and hosts call models
on several cards from a thread for each."""


class Backends:
    """Torch's attention for one model: what failed once on a device and a shape is not asked again.

    cuDNN, which torch asks first on some cards, has no plan for every shape and says so by an error
    out of attention. It is not asked about attention across frames, which has tens of thousands of
    heads and a few rows in each.
    """

    def __init__(self) -> None:
        self.levels: dict[Hashable, int] = {}
        self._has_told = False

    def applies(self, tokens: Tensor) -> bool:
        """Whether there is anything to choose from."""
        return tokens.is_cuda

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, across_frames: bool
    ) -> Tensor:
        """Attend: (B, N, rows, D/N) each -> (B, N, rows of `q`, D/N).

        Args:
            q, k, v: queries, keys and values.
            bias: added to the scores, or None.
            across_frames: whether the rows are the frames at a place.

        Raises:
            RuntimeError: what the last kernel said, if none of them does it.
        """
        if not self.applies(q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        if torch.compiler.is_compiling():  # what is chosen then stays in the graph
            return attend_in_order(ORDERS[int(across_frames)], q, k, v, bias)
        key = (q.device, q.dtype, q.shape, k.shape, bias is None)
        level = max(self.levels.get(key, 0), int(across_frames))
        while True:
            try:
                with ONE_ORDER:
                    return attend_in_order(ORDERS[level], q, k, v, bias)
            except RuntimeError as error:
                # without an order, memory may be what cuDNN asks for beside the tensors
                is_final = isinstance(error, torch.OutOfMemoryError) or level > 0
                if is_final and is_out_of_memory(error):
                    raise
                level += 1
                if level == len(ORDERS):
                    raise
                self._tell(error)
            self.levels[key] = level

    def _tell(self, error: RuntimeError) -> None:
        """Say once that another kernel takes over."""
        if not self._has_told:
            self._has_told = True
            first = next(iter(str(error).splitlines()), "")
            warnings.warn(
                f"One of torch's attention kernels failed ({type(error).__name__}: {first}), so "
                "another one is used there: as correct, maybe slower. A newer version of torch or "
                "of the driver may do without.",
                stacklevel=2,
            )


def attend_in_order(
    order: list[SDPBackend] | None, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
) -> Tensor:
    """Attend with the first kernel of an order that can, or with torch's own choice."""
    if order is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with sdpa_kernel(order):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
