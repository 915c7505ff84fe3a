"""Which alphas a LoRA can have, whoever states them."""

from __future__ import annotations

from typing import TypeGuard

from ...checks import is_number

MOST_ALPHA = 1e6  # trainers write 1 to some thousands; far above, weights leave float16 at once


def is_alpha(value: object) -> TypeGuard[float]:
    """Whether `value` is a number that an alpha can be; NaN is none, a negative one turns round."""
    return is_number(value) and -MOST_ALPHA <= value <= MOST_ALPHA
