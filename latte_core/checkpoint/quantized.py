"""Turn fp8 weights back into ordinary ones; refuse other packed types (R12).

Layouts: plain fp8 is a cast. Scaled fp8 has `X.scale_weight` (older, with a marker tensor
`scaled_fp8`) or `X.weight_scale` (newer, with `X.comfy_quant`); weight = stored * scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UnknownArchitectureError
from .records import shown

FP8_TYPES = frozenset(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
HELPER_SUFFIXES = (".scale_input", ".input_scale", ".comfy_quant", *SCALE_SUFFIXES)
MARKER = "scaled_fp8"


def is_helper(name: str) -> bool:
    """Return whether a name belongs to the packing and not to the model."""
    return name.endswith(HELPER_SUFFIXES) or name.rsplit(".", 1)[-1] == MARKER


def dequantize(name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return `tensors` without fp8: scaled, cast to `dtype`, helpers dropped; others unchanged.

    Raises:
        UnknownArchitectureError: for weights packed in a way that is not fp8, naming one.
    """
    if not any(is_helper(key) or value.dtype in FP8_TYPES for key, value in tensors.items()):
        return dict(tensors)
    result: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if is_helper(key):
            continue
        scale = scale_of(key, tensors)
        if value.dtype in FP8_TYPES:
            wide = value.to(torch.float32)
            result[key] = (wide if scale is None else wide * fit(scale, wide)).to(dtype)
        elif scale is not None and not value.is_floating_point():
            raise UnknownArchitectureError(
                f"{name} is packed in a format that is not opened here: {shown(key)} has type "
                f"{value.dtype}. Use an fp8, fp16, bf16 or fp32 copy."
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


def fit(scale: Tensor, weight: Tensor) -> Tensor:
    """Return a scale as one number, or as one per row of `weight`."""
    wide = scale.to(torch.float32)
    if wide.numel() == 1:
        return wide.reshape(())
    return wide.reshape(-1, *[1] * (weight.dim() - 1))
