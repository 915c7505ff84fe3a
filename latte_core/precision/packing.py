"""Quantised weights as ComfyUI's loaders read them, from ordinary ones.

A packed layer X is `X.weight` in eight bits, `X.weight_scale` and `X.comfy_quant`, JSON bytes that
name the format. fp8 has one scale for the weight and int8 one for each row, as ComfyUI's layouts
have (comfy/quant_ops.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidInputError
from .formats import FP8, format_named, quantise_rows, quantise_whole
from .layers import is_target

WEIGHT, SCALE, MARK = ".weight", ".weight_scale", ".comfy_quant"


def pack(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of a model with its wide layers packed; the rest is unchanged.

    Args:
        tensors: ordinary weights of a transformer or a T5 encoder, under their released names.
        name: `fp8` or `int8`.

    Raises:
        InvalidInputError: for another name, or weights without a layer to pack.
    """
    kind = format_named(name)
    mark = torch.tensor(list(json.dumps({"format": kind.stored_as}).encode()), dtype=torch.uint8)
    packed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        layer = key.removesuffix(WEIGHT)
        if layer == key or value.dim() != 2 or not is_target(layer, *value.shape):
            packed[key] = value
            continue
        quantise = quantise_whole if kind is FP8 else quantise_rows
        packed[key], packed[layer + SCALE] = quantise(value, kind)
        packed[layer + MARK] = mark.clone()
    if len(packed) == len(tensors):
        raise InvalidInputError(
            f"There is nothing to store as {name}: no layer of a Latte transformer or a T5 "
            "encoder has rows and columns in multiples of 16. Leave the format out."
        )
    return packed
