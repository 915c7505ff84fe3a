"""The learning rate of each update."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]
SCHEDULES = ("constant", "cosine")


def rate_at(
    step: int, num_steps: int, *, schedule: Schedule, warm_up: int, final_decay: float = 0.0
) -> float:
    """Return the share of the learning rate that an update has.

    It rises linearly over the first `warm_up` updates. "cosine" falls from 1 to 0 over the rest as
    half a period of the cosine; "constant" stays at 1 and falls linearly to 0 over the last
    `final_decay` of all updates.

    Args:
        step: 0 .. num_steps - 1.
        num_steps: of the whole run.
        schedule: "constant" or "cosine".
        warm_up: updates; the first has 1 / warm_up.
        final_decay: 0 .. 1.
    """
    rising = min((step + 1) / warm_up, 1.0) if warm_up else 1.0
    if schedule == "cosine":
        length = max(num_steps - warm_up, 1)
        done = min(max(step - warm_up, 0) / length, 1.0)
        return min(rising, 0.5 * (1 + math.cos(math.pi * done)))
    falling_steps = final_decay * num_steps
    falling = min((num_steps - step) / falling_steps, 1.0) if falling_steps >= 1 else 1.0
    return min(rising, falling)
