"""Which of the 1000 training timesteps a run visits, as the reference's step strings say it.

Source: docs/model.md 7.1.
"""

from __future__ import annotations

import re

from ..errors import InvalidInputError
from .betas import TRAIN_STEPS

EXAMPLES = "'250', '10,15,20' (as many steps in each third) or 'ddim50'"
SECTIONS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
STRIDED = re.compile(r"ddim([0-9]{1,9})")


def space_timesteps(steps: str | int) -> tuple[int, ...]:
    """Return the training timesteps to visit, ascending.

    Args:
        steps: "N" for N timesteps from 0 to 999, evenly spaced and rounded; "N1,N2,..." for as
            many in each of equally long sections; "ddimN" for N timesteps from 0 at a whole
            stride. A number means the same as its text.

    Raises:
        InvalidInputError: for another text, for more steps than a section has, and for a "ddimN"
            that no whole stride gives.
    """
    text = "" if isinstance(steps, bool) else "".join(str(steps).lower().split())
    strided = STRIDED.fullmatch(text)
    if strided is not None:
        return _strided(int(strided[1]))
    if SECTIONS.fullmatch(text) is None:
        raise InvalidInputError(f"steps is {steps!r}, but it must be like {EXAMPLES}.")
    return _sectioned([int(count) for count in text.split(",")])


def _strided(count: int) -> tuple[int, ...]:
    """Return `count` timesteps at the smallest whole stride that gives exactly so many."""
    strides = range(1, TRAIN_STEPS + 1)
    found = (stride for stride in strides if len(range(0, TRAIN_STEPS, stride)) == count)
    stride = next(found, None)
    if stride is not None:
        return tuple(range(0, TRAIN_STEPS, stride))
    possible = {len(range(0, TRAIN_STEPS, stride)) for stride in strides}
    nearest = min(possible, key=lambda other: (abs(other - count), other))
    raise InvalidInputError(
        f"steps is 'ddim{count}', but no whole stride through {TRAIN_STEPS} timesteps gives "
        f"{count} of them. Use 'ddim{nearest}', or '{min(max(count, 1), TRAIN_STEPS)}' for "
        "rounded distances."
    )


def _sectioned(counts: list[int]) -> tuple[int, ...]:
    """Return rounded timesteps of each section; the first sections take what is left over."""
    shortest, longer = divmod(TRAIN_STEPS, len(counts))
    chosen: list[int] = []
    start = 0
    for number, count in enumerate(counts):
        length = shortest + (number < longer)
        if not 1 <= count <= length:
            where = f"section {number + 1} of {len(counts)}" if len(counts) > 1 else "the schedule"
            raise InvalidInputError(
                f"steps asks for {count} of the {length} timesteps of {where}; it must be 1 to "
                f"{length}."
            )
        chosen += [start + offset for offset in _evenly(count, length)]
        start += length
    return tuple(chosen)


def _evenly(count: int, length: int) -> list[int]:
    """Return `count` numbers from 0 to `length` - 1 at equal distances, rounded."""
    distance = (length - 1) / (count - 1) if count > 1 else 1.0
    offsets: list[int] = []
    position = 0.0
    for _ in range(count):
        offsets.append(round(position))
        position += distance  # parity: summed, not multiplied; halves may round the other way
    return offsets
