"""Limits of what a run can be asked for, and the checks that name them."""

from __future__ import annotations

import math
from typing import TypeGuard

from .errors import InvalidInputError

SIZE_MULTIPLE = 16  # one patch of 2 x 2 latent cells
MAX_PIXELS = 8192
MAX_FRAMES = 65536
MAX_SEED = 2**64 - 1
MAX_BATCH = 64  # videos made together


def is_whole(value: object, low: float = -math.inf, high: float = math.inf) -> TypeGuard[int]:
    """Whether `value` is an integer in [low, high]; a bool or a float is not an integer."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is an integer or a float; a bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is an integer in [low, high], see `is_whole`.

    Raises:
        InvalidInputError: otherwise, with the name, the value found and the range.
    """
    if not is_whole(value, low, high):
        raise InvalidInputError(
            f"{name} is {value!r}, but it must be a whole number from {low} to {high}."
        )
    return value


def check_size(name: str, value: object) -> int:
    """Return `value` if it is a size in pixels that Latte can make: a positive multiple of 16.

    Raises:
        InvalidInputError: otherwise; a size between two multiples is told both.
    """
    size = check_integer(name, value, SIZE_MULTIPLE, MAX_PIXELS)
    if size % SIZE_MULTIPLE:
        below = size - size % SIZE_MULTIPLE
        raise InvalidInputError(
            f"{name} is {size} pixels, but Latte needs a multiple of {SIZE_MULTIPLE}. "
            f"The nearest sizes are {below} and {below + SIZE_MULTIPLE}."
        )
    return size


def check_seed(value: object) -> int:
    """Return `value` if it is a seed, 0 to 2^64 - 1.

    Raises:
        InvalidInputError: otherwise.
    """
    return check_integer("seed", value, 0, MAX_SEED)


def check_eta(eta: float) -> float:
    """Return DDIM's share of noise if it is one.

    Raises:
        InvalidInputError: outside 0 .. 1.
    """
    if not (math.isfinite(eta) and 0 <= eta <= 1):
        raise InvalidInputError(
            f"eta is {eta!r}, but it must be from 0 (deterministic) to 1 (fully stochastic)."
        )
    return eta


def check_guidance(scale: float) -> float:
    """Return a guidance scale if it is one.

    Raises:
        InvalidInputError: if it is negative or not a number.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise InvalidInputError(
            f"guidance_scale is {scale!r}, but it must be a number from 0 up; "
            "1 or less switches guidance off, 7.5 is the usual value."
        )
    return scale
