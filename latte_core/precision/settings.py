"""Precisions by name, as pipelines, the command line and nodes offer them."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InvalidInputError
from .accumulation import accumulate_in_float16, check_float16_accumulation
from .layers import layer_dtype
from .names import ACCUMULATION, PRECISIONS
from .quantize import quantize

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPrecision:
    """How the runs of a pipeline compute.

    Args:
        name: one of `PRECISIONS`, or None for the weights' own.
        product: how eight-bit layers multiply, see `names`; None without such layers.
        sentence: what was done to the model, for a person; None if nothing was.
    """

    name: str | None = None
    product: str | None = None
    sentence: str | None = None

    def active(self) -> AbstractContextManager[None]:
        """Return the context to run the model in."""
        return accumulate_in_float16() if self.name == ACCUMULATION else nullcontext()


def apply_precision(
    model: nn.Module, name: str | None, *, device: torch.device | None = None
) -> RunPrecision:
    """Change a transformer in place as a name says, and return how to run it.

    Args:
        model: LatteT2V or Latte, with the LoRAs that are to be in it.
        name: `fp8`, `int8`, `fp16-acc` (sums in float16), or None for nothing.
        device: where it will run; None for where its weights are.

    Raises:
        InvalidInputError: for another name, or a model or device that it does not fit.
    """
    if name is None:
        return RunPrecision()
    if name not in PRECISIONS:
        raise InvalidInputError(
            f"The precision is {name!r}; choose {', '.join(PRECISIONS)}, or leave it out."
        )
    if name == ACCUMULATION:
        where = device or next(model.parameters()).device
        check_float16_accumulation(layer_dtype(model), where)
        return RunPrecision(name=name)
    done = quantize(model, name, device=device)
    logger.info(done.sentence)
    return RunPrecision(name=name, product=done.product, sentence=done.sentence)
