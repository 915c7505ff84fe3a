"""A task with a right and a wrong way, and kernels that choose between ways without a GPU."""

from __future__ import annotations

from torch import Tensor

from latte_core.kernels.choice import KernelSet


def double(tokens: Tensor) -> Tensor:
    """Do the task."""
    return 2 * tokens


def same_double(tokens: Tensor) -> Tensor:
    """Do it in another way."""
    return tokens + tokens


def wrong(tokens: Tensor) -> Tensor:
    """Do something else."""
    return 2.1 * tokens


class ReadyKernels(KernelSet):
    """Chooses on the CPU as it would on a GPU."""

    def is_active(self, tokens: Tensor) -> bool:
        return True
