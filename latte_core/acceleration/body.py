"""What step caching needs to know of a transformer: how many units, and what enters the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import IncompatibleInputsError
from ..model.latte.blocks import EPS
from ..model.latte.transformer import Latte
from ..model.layers import modulate, normalize
from ..model.t2v.transformer import LatteT2V


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """The blocks of a transformer as `BlockHooks.run_block` is called for them.

    Args:
        num_units: calls of `run_block` for one call of the model.
        first_input: (hidden (B, F*S, D), modulation as `run_block` gets it) -> the modulated and
            normalized tokens that the first block attends with, same shape as `hidden`.
    """

    num_units: int
    first_input: Callable[[Tensor, Tensor], Tensor]


def body_of(model: nn.Module) -> Body:
    """Describe the blocks of a Latte.

    Raises:
        IncompatibleInputsError: for any other model.
    """
    if isinstance(model, LatteT2V):
        return Body(num_units=model.config.num_layers, first_input=_text_input(model))
    if isinstance(model, Latte):
        return Body(num_units=model.config.num_units, first_input=_class_input(model))
    raise IncompatibleInputsError(
        f"Step caching knows the blocks of Latte, but this model is a {type(model).__name__}. "
        "Leave the cache out, or load a Latte model."
    )


def _text_input(model: LatteT2V) -> Callable[[Tensor, Tensor], Tensor]:
    block: Any = model.transformer_blocks[0]

    def first_input(hidden: Tensor, modulation: Tensor) -> Tensor:
        table = block.scale_shift_table.to(device=modulation.device, dtype=modulation.dtype)
        rows = table + modulation  # B 6 D
        return modulate(normalize(hidden, model.config.norm_eps), rows[:, 0:1], rows[:, 1:2])

    return first_input


def _class_input(model: Latte) -> Callable[[Tensor, Tensor], Tensor]:
    block: Any = model.blocks[0]

    def first_input(hidden: Tensor, condition: Tensor) -> Tensor:
        tokens = normalize(hidden, EPS)
        if not block.is_modulated:
            return tokens  # timestep and class are among the tokens
        linear = block.adaLN_modulation[1]
        rows = linear(F.silu(condition[:, :1]))  # B 1 6D
        shift, scale = rows.chunk(6, dim=2)[:2]
        return modulate(tokens, shift, scale)

    return first_input
