"""Whether a processor has instructions for int8 products, so that these are right and fast.

oneDNN, which multiplies int8 for torch, sums pairs of products in 16 bits where there are none, and
such sums overflow; other builds count in a loop, which takes twelve times as long as float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Names of torch.cpu.get_capabilities: VNNI and AMX of x86, the dot products of ARM
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dot")
ROWS, DEPTH = 256, 512  # of the product that is tried
LARGEST = 127
ROUNDS = 3

WholeProduct = Callable[[Tensor, Tensor], Tensor]


def has_int8_product(multiply: WholeProduct) -> bool:
    """Return whether int8 matrices are multiplied exactly, and faster than those of float32.

    Args:
        multiply: (M, K) and (N, K) int8 -> (M, N) int32.
    """
    if not has_instructions():
        return False
    numbers = torch.full((ROWS, DEPTH), LARGEST, dtype=torch.int8)
    if not bool((multiply(numbers, numbers) == LARGEST**2 * DEPTH).all()):
        return False
    floats = numbers.float()
    whole = own = float("inf")
    for _ in range(ROUNDS):  # in turn, so that a slow moment does not fall on one alone
        whole = min(whole, seconds(lambda: multiply(numbers, numbers)))
        own = min(own, seconds(lambda: floats @ floats.t()))
    return whole < own


def has_instructions() -> bool:
    """Return whether the processor has such instructions; True where this torch cannot say."""
    known: Any = getattr(torch.cpu, "get_capabilities", None)
    if known is not None:
        found = known()
        return any(bool(found.get(name)) for name in INSTRUCTIONS)
    asked: Any = getattr(torch.cpu, "_is_vnni_supported", None)
    return True if asked is None else bool(asked())


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
