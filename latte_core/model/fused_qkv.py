"""Fuse queries, keys and values of self-attention into one product, and take them apart again.

A fused model saves and loads the released names. LoRAs work on the separate layers, so a fused
model refuses them and names the way out. A fused model can be stored in eight bits; a model in
eight bits cannot be fused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InvalidInputError
from .attention import Attention, FusedLinear
from .latte_t2v import LatteT2V
from .lora_merge import MERGED, QUANTISED


def fuse_qkv(model: LatteT2V) -> None:
    """Compute queries, keys and values of every self-attention in one product.

    Args:
        model: changed in place; results differ by rounding at most. A fused model stays as it is.

    Raises:
        InvalidInputError: for layers that a host made, or that have a LoRA; nothing is changed.
    """
    found = {name: one for name, one in self_attentions(model).items() if one.to_qkv is None}
    for name, attention in found.items():
        for layer_name, layer in zip(FusedLinear.NAMES, layers_of(attention), strict=True):
            check_plain(f"{name}.{layer_name}", layer)
    heads = model.config.num_attention_heads
    for attention in found.values():
        attention.to_qkv = FusedLinear(layers_of(attention), heads)
        for name in FusedLinear.NAMES:
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


def check_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer that is more than a weight and a bias.

    Raises:
        InvalidInputError: naming the layer, and what to do.
    """
    if hasattr(layer, MERGED):
        raise InvalidInputError(
            f"Layer {name} has a LoRA merged into it, which could not be taken out of a fused "
            "model. Remove the LoRA first; to keep it, save the merged model and fuse that."
        )
    if hasattr(layer, QUANTISED):
        raise InvalidInputError(
            f"Layer {name} is stored in eight bits already. Load the model again, fuse it, then "
            "set the precision."
        )
    if type(layer) is not nn.Linear:
        raise InvalidInputError(
            f"Layer {name} is a {type(layer).__name__}, but only plain layers can be fused. Take "
            "LoRA adapters off with remove_lora; layers that a host made stay separate."
        )
