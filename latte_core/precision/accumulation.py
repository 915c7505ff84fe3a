"""Sums of products in float16, which GeForce cards of the 30 series and later do faster.

The switch belongs to the whole process, so it is set for a run and put back afterwards.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InvalidInputError
from .matmul import NOT_NVIDIA

SWITCH = "allow_fp16_accumulation"


def check_float16_accumulation(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model that the switch has no effect on.

    Args:
        dtype: of the weights.
        device: where they are.

    Raises:
        InvalidInputError: saying what is missing, and what to do.
    """
    if not has_switch():
        raise InvalidInputError(
            f"Sums in float16 need torch 2.7 or later; this is torch {torch.__version__}. Update "
            "torch, or leave the precision out."
        )
    if device.type in NOT_NVIDIA:
        raise InvalidInputError(
            f"Sums in float16 are a switch of NVIDIA cards, but the model is on {device.type}. "
            "Leave the precision out there."
        )
    if dtype != torch.float16:
        raise InvalidInputError(
            f"Sums in float16 need weights in float16, but these are {dtype}. Choose float16 as "
            "their number format, or leave the precision out."
        )


def has_switch() -> bool:
    """Return whether this torch can sum in float16."""
    return hasattr(torch.backends.cuda.matmul, SWITCH)


@contextmanager
def accumulate_in_float16() -> Generator[None]:
    """Sum in float16 inside the block, and as before after it, also after an exception."""
    switches: Any = torch.backends.cuda.matmul
    before: bool = switches.allow_fp16_accumulation
    switches.allow_fp16_accumulation = True
    try:
        yield
    finally:
        switches.allow_fp16_accumulation = before
