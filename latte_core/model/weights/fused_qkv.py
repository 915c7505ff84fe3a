"""Fuse queries, keys and values of self-attention into one product, and take them apart again.

A fused model saves and loads the released names, and takes LoRAs as a separate one does; those that
are merged can be removed before and after. It may be stored in eight bits before it is fused, or
after, with the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...errors import InvalidInputError
from ..attention import Attention, FusedLinear, FusedRows
from ..t2v.transformer import LatteT2V
from .merge import QUANTISED

FUSED = "fused"  # method of layers in eight bits: (layers, heads) -> what takes their place


def fuse_qkv(model: LatteT2V) -> None:
    """Compute queries, keys and values of every self-attention in one product.

    Args:
        model: changed in place; results differ by rounding at most. A fused model stays as it is.

    Raises:
        InvalidInputError: for layers that a host made, or that have adapters in training; nothing
            is changed then.
    """
    found = {name: one for name, one in self_attentions(model).items() if one.to_qkv is None}
    for name, attention in found.items():
        check_fusible(name, layers_of(attention))
    heads = model.config.num_attention_heads
    for attention in found.values():
        attention.to_qkv = fused(layers_of(attention), heads)
        for name in FusedRows.NAMES:
            delattr(attention, name)


@torch.no_grad()
def unfuse_qkv(model: LatteT2V) -> None:
    """Undo `fuse_qkv`, to the last bit of the weights. Other models stay as they are."""
    for attention in self_attentions(model).values():
        fused, attention.to_qkv = attention.to_qkv, None
        for name, layer in ({} if fused is None else fused.apart()).items():
            setattr(attention, name, layer)


def self_attentions(model: LatteT2V) -> dict[str, Attention]:
    """Return the self-attention of every block, by name."""
    found: dict[str, Attention] = {}
    for group in ("transformer_blocks", "temporal_transformer_blocks"):
        blocks: Any = getattr(model, group)
        found |= {f"{group}.{index}.attn1": block.attn1 for index, block in enumerate(blocks)}
    return found


def layers_of(attention: Attention) -> tuple[nn.Linear, ...]:
    """Return the layers of queries, keys and values."""
    return attention.to_q, attention.to_k, attention.to_v


def fused(layers: tuple[nn.Linear, ...], heads: int) -> FusedRows:
    """Return the layer that takes the place of three that `check_fusible` accepts."""
    first: Any = layers[0]
    return FusedLinear(layers, heads) if type(first) is nn.Linear else first.fused(layers, heads)


def check_fusible(name: str, layers: tuple[nn.Linear, ...]) -> None:
    """Refuse layers that are neither plain nor stored in the same kind of number.

    Raises:
        InvalidInputError: naming the layer, and what to do.
    """
    for layer_name, layer in zip(FusedRows.NAMES, layers, strict=True):
        if type(layer) is not nn.Linear and not hasattr(layer, FUSED):
            raise InvalidInputError(
                f"Layer {name}.{layer_name} is a {type(layer).__name__}, but only plain layers "
                "and those in eight bits can be fused. Take LoRA adapters off with remove_lora; "
                "layers that a host made stay separate."
            )
    kinds = [getattr(layer, QUANTISED, None) or "unquantised" for layer in layers]
    if len(set(kinds)) > 1:
        raise InvalidInputError(
            f"The queries, keys and values of {name} cannot be fused: they are stored differently "
            f"({', '.join(kinds)}). Leave fusing out."
        )
