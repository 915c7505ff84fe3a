"""Turn fp8, int8 and int4 weights back into ordinary ones; refuse other packed types (R12).

Layouts: plain fp8 is a cast. Scaled fp8 has `X.scale_weight` (older, with a marker tensor
`scaled_fp8`) or `X.weight_scale` (newer, with `X.comfy_quant`); weight = stored * scale. int8 has
`X.weight_scale` and an `X.comfy_quant` that says so: other formats keep packed numbers in int8.
int4 is this package's own, see `text.four_bits`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from ...errors import UnknownArchitectureError
from ...precision.formats import INT8
from ...text.four_bits import STORED_AS, FourBits, dequantise_groups
from ..reading.records import shown

FP8_TYPES = frozenset(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
HELPER_SUFFIXES = (".scale_input", ".input_scale", ".comfy_quant", *SCALE_SUFFIXES)
MARKER = "scaled_fp8"
MARK_SUFFIX = ".comfy_quant"
ROTATED = "convrot"  # in a mark: the numbers are those of a rotated weight
MAX_MARK_BYTES = 4096


def is_helper(name: str) -> bool:
    """Return whether a name belongs to the packing and not to the model."""
    return name.endswith(HELPER_SUFFIXES) or name.rsplit(".", 1)[-1] == MARKER


def dequantize(name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return `tensors` without fp8, int8 and int4: scaled, cast to `dtype`, helpers dropped.

    Other tensors are unchanged.

    Raises:
        UnknownArchitectureError: for weights packed in another way, naming one.
    """
    if not any(is_helper(key) or value.dtype in FP8_TYPES for key, value in tensors.items()):
        return dict(tensors)
    result: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if is_helper(key):
            continue
        scale = scale_of(key, tensors)
        if value.dtype in FP8_TYPES or (scale is not None and is_int8(key, tensors)):
            wide = value.to(torch.float32)
            result[key] = (wide if scale is None else wide * fit(scale, wide)).to(dtype)
        elif scale is not None and is_int4(key, tensors):
            result[key] = dequantise_groups(value, scale, dtype)
        elif scale is not None and not value.is_floating_point():
            raise UnknownArchitectureError(
                f"{name} is packed in a format that is not opened here: {shown(key)} has type "
                f"{value.dtype}. Use an fp8, int8, fp16, bf16 or fp32 copy."
            )
        else:
            result[key] = value
    return result


def scale_of(key: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the scale that belongs to a weight, if there is one."""
    module = key.removesuffix(".weight")
    if module == key:
        return None
    return next((tensors[module + end] for end in SCALE_SUFFIXES if module + end in tensors), None)


def is_int8(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a weight holds plain int8 numbers, which its mark says."""
    if tensors[key].dtype != INT8.dtype:
        return False
    entries = mark_of(key, tensors)
    settings = entries.get("params")
    inner = cast("dict[str, object]", settings) if isinstance(settings, dict) else {}
    is_rotated = entries.get(ROTATED) or inner.get(ROTATED)
    return entries.get("format") == INT8.stored_as and not is_rotated


def is_int4(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a weight holds two numbers in a byte, as its mark, size and scales say."""
    scale = scale_of(key, tensors)
    is_marked = mark_of(key, tensors).get("format") == STORED_AS
    return is_marked and scale is not None and FourBits(tensors[key], scale).is_sound


def mark_of(key: str, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Return what the mark beside a weight says, nothing if there is none that can be read."""
    mark = tensors.get(key.removesuffix(".weight") + MARK_SUFFIX)
    if mark is None or mark.dtype != torch.uint8 or mark.numel() > MAX_MARK_BYTES:
        return {}
    try:
        described: object = json.loads(mark.cpu().numpy().tobytes())
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", described) if isinstance(described, dict) else {}


def fit(scale: Tensor, weight: Tensor) -> Tensor:
    """Return a scale as one number, or as one per row of `weight`."""
    wide = scale.to(torch.float32)
    if wide.numel() == 1:
        return wide.reshape(())
    return wide.reshape(-1, *[1] * (weight.dim() - 1))
