"""Write a transformer as GGUF, for ComfyUI-GGUF's "Unet Loader (GGUF)".

That loader knows a file by its architecture's name and takes no other than those of its list.
Latte-1 has the layer names of LTX-Video there (docs/comfyui.md 8); which model the file holds is
then found from its tensors, as for any other file. The loader hands on tensors alone, so the config
travels as one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInputError, MissingDependencyError
from ...files import atomic_write
from ...precision.layers import is_target
from ..recognition.names import CONFIG_TENSOR
from .writer import num_bytes_of, unwritable

GGUF_SUFFIX = ".gguf"
GGUF_TYPES = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16", "F32")
ARCHITECTURE = "ltxv"
BLOCK = 32  # numbers that share a scale in the types above
MAX_DIMENSIONS = 4
SHAPE_KEY = "comfy.gguf.orig_shape."  # read by ComfyUI-GGUF for tensors of more dimensions


def write_gguf(path: Path, tensors: Mapping[str, Tensor], kind: str, config: str) -> None:
    """Write a transformer's weights to a GGUF file that takes its name only when it is whole.

    Attention projections and feed-forward layers are written in `kind`, other matrices in float16,
    or in float32 where `kind` is that; tables and vectors stay float32.

    Args:
        path: ending in .gguf.
        tensors: ordinary weights under their released names.
        kind: a name of `GGUF_TYPES`.
        config: the model's config as JSON; it travels as the tensor `latte_config`, one number for
            each byte.

    Raises:
        MissingDependencyError: without the package gguf.
        CheckpointError: if the disk is full or the place cannot be written.
    """
    gguf = refuse_without_gguf()
    try:
        with atomic_write(path) as partial:
            writer = gguf.GGUFWriter(str(partial), ARCHITECTURE)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            described = torch.tensor(list(config.encode()), dtype=torch.float32)
            for name, value in {**tensors, CONFIG_TENSOR: described}.items():
                add(writer, gguf, name, value, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise unwritable(path, num_bytes_of(tensors), error) from error


def add(writer: Any, gguf: Any, name: str, value: Tensor, kind: str) -> None:
    """Hand one tensor to the writer, in the type that suits it."""
    if not value.is_floating_point():
        raise InvalidInputError(f"Tensor {name} is {value.dtype} and cannot be written as GGUF.")
    if value.dim() > MAX_DIMENSIONS:
        writer.add_array(SHAPE_KEY + name, list(value.shape))
        value = value.flatten(1)
    chosen = gguf.GGMLQuantizationType[type_of(name, value, kind)]
    numbers = value.detach().to("cpu", torch.float32).contiguous().numpy()
    packed = gguf.quants.quantize(numbers, chosen)
    writer.add_tensor(name, packed, raw_dtype=chosen)


def type_of(name: str, value: Tensor, kind: str) -> str:
    """Return the name of the type that a tensor is written in."""
    layer = name.removesuffix(".weight")
    if value.dim() == 1 or layer == name:
        return "F32"  # biases, and tables that are added to others
    if value.dim() == 2 and is_target(layer, *value.shape) and value.shape[1] % BLOCK == 0:
        return kind
    return "F32" if kind == "F32" else "F16"


def refuse_without_gguf() -> Any:
    """Return the package gguf.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MissingDependencyError(
            "GGUF files are written with the package gguf, which is not installed. "
            "Run: pip install gguf"
        ) from error
