"""Which of several ways to compute the same is fastest on a device, found by running them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

LOGGER = logging.getLogger("latte")
ROUNDS, REPEATS = 3, 3
COMPARED_ROWS = 4096  # of a result, at most: enough to meet every place in a program's tile

Timer = Callable[[Callable[[], Any]], float]
"""Runs a call once or more and returns its milliseconds."""


def device_time(call: Callable[[], Any]) -> float:
    """Return the milliseconds a call takes the current accelerator, launches included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPEATS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPEATS


def fastest(
    plain: Callable[[], Any],
    ways: Sequence[Callable[[], Any]],
    expected: list[Tensor],
    timer: Timer,
) -> int:
    """Return the place of the fastest of `ways`, or -1 if `plain` is no slower.

    Each way runs once before it is timed. A way that asks for more of the device than there is, or
    whose result is not that of `plain` up to rounding, takes no part.

    Args:
        plain: the call whose result is right.
        ways: calls that should return the same.
        expected: `sample` of the result of `plain`.
        timer: measures one call.
    """
    able: dict[int, Callable[[], Any]] = {-1: plain}
    for place, way in enumerate(ways):
        if is_equal(way, expected):
            able[place] = way
    if len(able) == 1:
        return -1
    best = {place: float("inf") for place in able}
    for _ in range(ROUNDS):  # in turn, so that a slow moment does not fall on one alone
        for place, way in able.items():
            best[place] = min(best[place], timer(way))
    LOGGER.debug("Milliseconds of torch (-1) and of the kernels: %s.", best)
    return min(best, key=lambda place: (best[place], place))


def sample(result: Any) -> list[Tensor]:
    """Return rows of each tensor (..., D) of a result, spread evenly, as float32 of their own."""
    found: list[Tensor] = []
    for one in tree_leaves(result):
        rows: Tensor = one.flatten(0, -2)
        # odd, so that all places in a tile of rows are met
        step = max(1, rows.shape[0] // COMPARED_ROWS) | 1
        found.append(rows[::step].clone().float())
    return found


def is_equal(way: Callable[[], Any], expected: list[Tensor]) -> bool:
    """Whether a way runs on this device and returns what is expected, up to rounding."""
    from triton.runtime.errors import OutOfResources  # pyright: ignore

    try:
        result = way()
    except OutOfResources as error:
        LOGGER.debug("A kernel does not fit this device: %s", error)
        return False
    dtype: torch.dtype = tree_leaves(result)[0].dtype
    tolerance = max(4 * torch.finfo(dtype).eps, 4e-3)  # float32 may be multiplied as TF32
    found = sample(result)
    is_near = all(
        bool((one - other).abs().max() <= tolerance * other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )
    if not is_near and all(bool(one.isfinite().all()) for one in expected):
        warnings.warn(
            "A fused kernel does not give torch's result on this device, so it is not used.",
            stacklevel=2,
        )
    return is_near
