"""Which frames of a clip a training step sees, as the reference picks them (docs/model.md 10).

A window of num_frames x interval frames is placed at random; shorter clips are one window. Video
files are sampled evenly over the window ("linspace"), frame folders at a fixed stride ("stride").
"""

from __future__ import annotations

import random

from ..checks import MAX_FRAMES, check_integer
from ..errors import InvalidInputError

STYLES = ("linspace", "stride")


def num_needed(*, num_frames: int, interval: int, style: str) -> int:
    """Return how many frames a clip must have at least.

    Raises:
        InvalidInputError: for a count out of range or an unknown style.
    """
    check_integer("num_frames", num_frames, 1, MAX_FRAMES)
    check_integer("interval", interval, 1, MAX_FRAMES)
    if style not in STYLES:
        raise InvalidInputError(
            f"The frame sampling is {style!r}, but it must be one of {' and '.join(STYLES)}."
        )
    return num_frames if style == "linspace" else (num_frames - 1) * interval + 1


def frame_indices(
    total: int, *, num_frames: int, interval: int, style: str, rng: random.Random
) -> tuple[int, ...]:
    """Return the frames of one training clip, in order.

    Args:
        total: frames the clip has.
        num_frames: frames to pick, F.
        interval: frames from one to the next in a whole window of F x interval frames.
        style: "linspace" spreads F frames over the window, first and last included, each rounded
            down; "stride" takes every `interval`-th from the window's first.
        rng: places the window; one draw, also where there is one place only.

    Raises:
        InvalidInputError: if the clip is too short, or as `num_needed`.

    Source: Latte TemporalRandomCrop and the four data sets that use it.
    """
    needed = num_needed(num_frames=num_frames, interval=interval, style=style)
    if total < needed:
        raise InvalidInputError(
            f"A clip has {total} frames, but {needed} are needed for {num_frames} frames at "
            f"interval {interval}. Use longer clips, fewer frames or a smaller interval."
        )
    window = num_frames * interval
    # parity: a window never starts at total - window, the last place it would fit
    start = rng.randint(0, max(0, total - window - 1))
    end = min(start + window, total)
    if style == "stride":
        return tuple(start + place * interval for place in range(num_frames))
    return _spread(start, end - 1, num_frames)


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """Return `count` whole numbers from `first` to `last`, in numpy's floating-point arithmetic."""
    if count == 1:
        return (first,)
    step = (last - first) / (count - 1)
    return (*(int(place * step + first) for place in range(count - 1)), last)
