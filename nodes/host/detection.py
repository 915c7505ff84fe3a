"""Recognise Latte's weights among others by names and first dimensions, without ComfyUI.

Quantised files pack the second dimension and lazy readers may not have it, so neither weights nor
later dimensions are looked at; what only a config can tell travels in one small extra tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ...latte_core.checkpoint.detect import detect_t2v
from ...latte_core.checkpoint.names import CONFIG_TENSOR, T2V_MARK
from ...latte_core.config import LatteT2VConfig
from ...latte_core.errors import LatteError, WeightMismatchError
from ...latte_core.model.latte_t2v import LatteT2V

IMAGE_MODEL = "latte_t2v"
UNUSED_TENSORS = ("caption_projection.y_embedding",)


def is_latte(names: Iterable[str], prefix: str = "") -> bool:
    """Whether tensors under these names are a text-to-video Latte."""
    return f"{prefix}{T2V_MARK}" in names


def config_to_tensor(config: LatteT2VConfig) -> Tensor:
    """Write a config as the bytes of its JSON, so that it survives files without metadata."""
    return torch.frombuffer(bytearray(json.dumps(config.to_dict()).encode()), dtype=torch.uint8)


def config_from_tensor(tensor: Tensor) -> LatteT2VConfig:
    """Read what `config_to_tensor` wrote.

    Raises:
        WeightMismatchError: if the tensor does not hold a config.
    """
    try:
        values = json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))
        return LatteT2VConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightMismatchError(
            f"The tensor {CONFIG_TENSOR} of this Latte file does not hold a transformer config "
            f"({error}). The file is damaged; load the original weights again."
        ) from error


def detect(
    tensors: Mapping[str, Any], prefix: str = "", metadata: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Return the `unet_config` of a Latte file, or None if the file is something else.

    The config comes from its own tensor, else from the header, else from names and Latte-1.

    Raises:
        CheckpointError: if the file is a Latte whose config contradicts its weights.
    """
    if not is_latte(tensors, prefix):
        return None
    own = tensors.get(f"{prefix}{CONFIG_TENSOR}")
    stated = None if own is None else config_from_tensor(own)
    config = detect_t2v(tensors, metadata, config=stated, prefix=prefix)
    if config is None:
        return None
    values = config.to_dict()
    del values["_class_name"]
    return {"image_model": IMAGE_MODEL, **values}


def config_from_settings(settings: Mapping[str, Any]) -> LatteT2VConfig:
    """Return the transformer's config out of a `unet_config`, which carries more than that."""
    known = {field.name for field in fields(LatteT2VConfig)}
    return LatteT2VConfig.from_dict({k: v for k, v in settings.items() if k in known})


def can_guess(config: LatteT2VConfig, tensors: Mapping[str, Any]) -> bool:
    """Whether a file with these tensors needs no config tensor to be read back."""
    try:
        return detect_t2v(tensors) == config
    except LatteError:
        return False


def check_complete(tensors: Mapping[str, Any], config: LatteT2VConfig) -> None:
    """Compare names and first dimensions with the model that `config` describes.

    ComfyUI loads weights leniently, and with dynamic memory a missing one becomes zeros.

    Raises:
        WeightMismatchError: naming the first tensors that are missing or have another size.
    """
    with torch.device("meta"):
        expected = LatteT2V(config).state_dict()
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise WeightMismatchError(
            f"This Latte file lacks {len(missing)} of {len(expected)} weights, the first is "
            f"{missing[0]}. It is not whole; fetch or convert it again."
        )
    wrong = [name for name in expected if tensors[name].shape[0] != expected[name].shape[0]]
    if wrong:
        name = wrong[0]
        raise WeightMismatchError(
            f"The Latte weight {name} has {tensors[name].shape[0]} rows, but the model that the "
            f"file describes expects {expected[name].shape[0]}. Load it with the config.json that "
            "belongs to it."
        )
