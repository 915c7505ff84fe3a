"""Time calls in turns: by the processor, or between two events of a device."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    timed: Callable[[Callable[[], Any]], float],
    seed: int,
) -> dict[str, list[float]]:
    """Time calls in turns, whose order changes from round to round.

    Args:
        calls: by name.
        rounds: how often each is timed.
        timed: returns the seconds of a call.
        seed: of the order.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    draws = random.Random(seed)
    for _ in range(rounds):
        for name in draws.sample(list(calls), len(calls)):
            times[name].append(timed(calls[name]))
    return times


def seconds_on_cpu(call: Callable[[], Any]) -> float:
    """Return the CPU-seconds of one call, which other processes of the machine hardly change."""
    start = time.process_time()
    call()
    return time.process_time() - start


def seconds_on_gpu(call: Callable[[], Any]) -> float:
    """Return the seconds of one call between two events of the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000
