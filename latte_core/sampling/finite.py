"""Finds the step at which a run breaks, without keeping a GPU waiting."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

AHEAD = 2  # steps that a CUDA device is given before the answer of one is looked at


class FiniteWatch:
    """Looks for NaN and infinity in the latents of one run.

    On most devices the answer is there at once. A CUDA device works while Python goes on to the
    next steps, so the answer of a step is looked at `AHEAD` steps later, when it is there or nearly
    so. The device always has work then, and a run that is watched, cancelled or broken ends at most
    that many steps late.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Tensor, Any]] = deque()  # step, answer, event behind it

    def add(self, step: int, latents: Tensor) -> int | None:
        """Ask about the latents of a step; return the first step known to be broken, or None."""
        is_finite = torch.isfinite(latents).all()
        if not latents.is_cuda:
            return None if bool(is_finite) else step
        answer = pinned_flag()
        answer.copy_(is_finite, non_blocking=True)
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(latents.device))
        self._waiting.append((step, answer, event))
        return self._first_broken(AHEAD)

    def end(self) -> int | None:
        """Wait for all answers; return the first broken step, or None."""
        return self._first_broken(0)

    def _first_broken(self, most: int) -> int | None:
        """Look at the oldest answers until at most `most` are left."""
        while len(self._waiting) > most:
            step, answer, event = self._waiting.popleft()
            if not event.query():
                event.synchronize()
            if not bool(answer):
                return step
        return None


def pinned_flag() -> Tensor:
    """Return room for one truth value that a CUDA device can write into."""
    try:
        return torch.empty((), dtype=torch.bool, pin_memory=True)
    except RuntimeError:  # virtual machines and full systems: each answer is waited for
        return torch.empty((), dtype=torch.bool)
