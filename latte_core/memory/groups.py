"""The blocks of a model in the groups that a stream moves."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import InvalidInputError
from ..model.latte.transformer import Latte
from ..model.t2v.transformer import LatteT2V


def block_groups(module: nn.Module) -> list[list[nn.Module]]:
    """Return pairs of blocks of a Latte, or single blocks of a T5 encoder, in running order.

    Raises:
        InvalidInputError: for another model.
    """
    if isinstance(module, LatteT2V):
        pairs = zip(module.transformer_blocks, module.temporal_transformer_blocks, strict=True)
        return [[*pair] for pair in pairs]
    if isinstance(module, Latte):
        blocks = list(module.blocks)
        step = 2 if module.config.is_paired else 1
        return [blocks[start : start + step] for start in range(0, len(blocks), step)]
    encoder: Any = getattr(module, "encoder", None)
    blocks = getattr(encoder, "block", None)
    if isinstance(blocks, nn.ModuleList):
        return [[block] for block in blocks]
    raise InvalidInputError(
        f"A {type(module).__name__} cannot be streamed block by block. Choose a memory preset "
        "that keeps it whole, such as 12."
    )
