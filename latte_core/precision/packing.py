"""Quantised weights as ComfyUI's loaders read them, from ordinary ones.

A packed layer X is `X.weight` in eight bits, `X.weight_scale` and `X.comfy_quant`, JSON bytes that
name the format. fp8 has one scale for the weight and int8 one for each row, as ComfyUI's layouts
have (comfy/quant_ops.py). int4, for text encoders, has two numbers in a byte and one scale for each
group; ComfyUI has no such layout, so that this package alone reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..text.four_bits import STORED_AS, quantise_groups
from .formats import FORMATS, FP8, format_named, quantise_rows, quantise_whole
from .layers import is_target
from .names import FP8_NAME, INT4_NAME

PACKED = (*FORMATS, INT4_NAME)  # formats of files
WEIGHT, SCALE, MARK = ".weight", ".weight_scale", ".comfy_quant"


def pack(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of a model with its wide layers packed; the rest is unchanged.

    Args:
        tensors: ordinary weights of a transformer or a T5 encoder, under their released names.
        name: one of `PACKED`; `int4` for a text encoder alone.

    Raises:
        InvalidInputError: for another name, or weights without a layer to pack.
    """
    stored_as = STORED_AS if name == INT4_NAME else format_named(name).stored_as
    mark = torch.tensor(list(json.dumps({"format": stored_as}).encode()), dtype=torch.uint8)
    packed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        layer = key.removesuffix(WEIGHT)
        if layer == key or value.dim() != 2 or not is_target(layer, *value.shape):
            packed[key] = value
            continue
        packed[key], packed[layer + SCALE] = pack_weight(value, name)
        packed[layer + MARK] = mark.clone()
    if len(packed) == len(tensors):
        raise InvalidInputError(
            f"There is nothing to store as {name}: no layer of a Latte transformer or a T5 "
            "encoder has rows and columns in multiples of 16. Leave the format out."
        )
    return packed


def pack_weight(weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return the numbers and the scales of one weight (N, K), as files of a format have them."""
    if name == INT4_NAME:
        return quantise_groups(weight)
    return quantise_whole(weight, FP8) if name == FP8_NAME else quantise_rows(weight, FORMATS[name])
