"""T5 weights as people have them on disk, brought to one form: names, fp8 and int8 with scales.

A quantised weight is stored as `X.weight` in fp8 with a scale beside it: `X.scale_weight` in older
files, which also hold a marker named `scaled_fp8`, or `X.weight_scale` with `X.comfy_quant` in
newer ones, which may be int8 too. The weight that is meant is `X.weight * scale`. This
package's own format of four bits, see `four_bits.py`, has the same names and stays packed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor

from ..errors import CorruptCheckpointError, UnknownArchitectureError
from .four_bits import STORED_AS, FourBits

Stored = TypeVar("Stored")

FIRST_QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
# transformers ties two names of one table, and a file may hold either.
TABLE_LAYER, TABLE_ALIAS_LAYER = "shared.", "encoder.embed_tokens."
TABLE, TABLE_ALIAS = f"{TABLE_LAYER}weight", f"{TABLE_ALIAS_LAYER}weight"
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
ROTATED = "convrot"  # in the description of a weight that is stored turned
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
WEIGHT, SCALE, MARK = ".weight", ".weight_scale", ".comfy_quant"
UNUSED_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant")
UNUSED_NAMES = ("scaled_fp8", "spiece_model", "lm_head.weight", "logit_scale")


def encoder_tensors(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the encoder's own tensors, or what is said of them, under T5's names.

    A prefix in front of every name, as in all-in-one files, is removed; a decoder is left out, as
    it takes no part in encoding. The table of words has one of two names, or both.
    """
    prefixes = [name[: -len(FIRST_QUERY)] for name in tensors if name.endswith(FIRST_QUERY)]
    prefix = min(prefixes, key=len, default="")
    found = {
        name[len(prefix) :]: tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not name[len(prefix) :].startswith("decoder.")
    }
    if TABLE not in found and TABLE_ALIAS in found:
        found = {name.replace(TABLE_ALIAS_LAYER, TABLE_LAYER): t for name, t in found.items()}
    return found


def take_four_bits(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, FourBits], dict[str, Tensor]]:
    """Return the layers that are stored in four bits, by name, and the tensors that are left.

    Raises:
        CorruptCheckpointError: if one of them is incomplete.
    """
    left = dict(tensors)
    found: dict[str, FourBits] = {}
    for name, mark in tensors.items():
        layer = name.removesuffix(MARK)
        if layer == name or format_in(name, mark).get("format") != STORED_AS:
            continue
        parts = [left.pop(layer + ending, None) for ending in (WEIGHT, SCALE, MARK)]
        values, scales = parts[:2]
        if values is None or scales is None or not FourBits(values, scales).is_sound:
            raise CorruptCheckpointError(
                f"{layer} is stored as {STORED_AS}, but its numbers or scales are missing or have "
                "another size. The file is damaged; write or download it again."
            )
        found[layer] = FourBits(values, scales)
    return found, left


def dequantise(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights without scales and markers; scaled ones become `dtype`.

    Plain fp8 weights stay as they are: they need a cast and nothing else.

    Raises:
        UnknownArchitectureError: for a quantisation other than fp8 and int8.
        CorruptCheckpointError: if a scale has no weight, or does not fit it.
    """
    _check_formats(tensors)
    scales = {
        name[: -len(ending)] + ".weight": scale
        for ending in SCALE_ENDINGS
        for name, scale in tensors.items()
        if name.endswith(ending)
    }
    orphans = [name for name in scales if name not in tensors]
    if orphans:
        raise CorruptCheckpointError(
            f"The text encoder holds a scale for {orphans[0]} but not the weight itself. "
            "The file is incomplete; download it again."
        )
    dropped = SCALE_ENDINGS + UNUSED_ENDINGS
    return {
        name: _scaled(name, tensor, scales[name], dtype) if name in scales else tensor
        for name, tensor in tensors.items()
        if not name.endswith(dropped) and name not in UNUSED_NAMES
    }


def usual_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype to run stored weights in: their own, but bfloat16 in place of fp8."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dim() == 2:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    stored = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    if stored in (torch.float16, torch.bfloat16, torch.float32):
        return stored
    return torch.bfloat16 if stored in FP8_DTYPES else torch.float32


def _scaled(name: str, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply by one scale for the whole weight, or one for each of its rows."""
    if weight.dtype not in (*FP8_DTYPES, torch.int8):
        raise UnknownArchitectureError(
            f"{name} has a scale and is stored as {weight.dtype}, but only fp8 and int8 weights "
            "with a scale can be read. Use a t5xxl file in fp16, fp8 or scaled fp8."
        )
    rows = weight.shape[0]
    if scale.numel() not in (1, rows):
        raise CorruptCheckpointError(
            f"{name} has {rows} rows but {scale.numel()} scales; expected 1 or {rows}. "
            "The file is damaged; download it again."
        )
    factor = scale.float().reshape(-1, *[1] * (weight.dim() - 1))
    return (weight.float() * factor).to(dtype)


def _check_formats(tensors: Mapping[str, Tensor]) -> None:
    """Refuse quantised formats not in `FORMATS`; `X.comfy_quant` names them in JSON bytes."""
    for name, tensor in tensors.items():
        if not name.endswith(MARK):
            continue
        named = format_in(name, tensor)
        found = named.get("format")
        is_turned = ROTATED in json.dumps(named)
        if found not in FORMATS or is_turned:
            raise UnknownArchitectureError(
                f"{name} says that the weight is quantised as {found}{' and turned' * is_turned}, "
                f"but only plain {', '.join(FORMATS)} can be read. Use a t5xxl file in fp16 or fp8."
            )


def format_in(name: str, mark: Tensor) -> dict[str, object]:
    """Return what a tensor of JSON bytes says of a quantisation.

    Raises:
        CorruptCheckpointError: if it holds something else.
    """
    try:
        described: object = json.loads(mark.to(torch.uint8).cpu().numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{name} does not describe a quantisation. The file is damaged; download it again."
        ) from error
    return cast("dict[str, object]", described) if isinstance(described, dict) else {}
