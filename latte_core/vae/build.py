"""Build diffusers' VAE classes from weights, on the meta device first."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError
from ..meta_modules import WithoutNumbers, fill_module
from .config import IMAGE_CLASS, TEMPORAL_CLASS, TEMPORAL_MARK, VaeConfig

ENCODER_PARTS = ("encoder.", "quant_conv.")
OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def build_vae(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | VaeConfig | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Any, VaeConfig]:
    """Return diffusers' module, filled, and its config.

    Weights without an encoder, or without its last convolution, give a module whose `encoder` is
    None.

    Raises:
        UnknownArchitectureError: if it is the VAE of another model.
        WeightMismatchError: if weights and config do not fit.
        MissingDependencyError: if diffusers is not installed.
    """
    weights = current_names(tensors)
    if config is None:
        config = VaeConfig.from_tensors(weights)
    elif not isinstance(config, VaeConfig):
        config = VaeConfig.from_dict(config, is_temporal=TEMPORAL_MARK in weights)
    module = _empty_module(config)
    if not _has_encoder(config, weights):
        module.encoder = module.quant_conv = None
        weights = {name: t for name, t in weights.items() if not name.startswith(ENCODER_PARTS)}
    fill_module(module, weights, part="VAE", dtype=dtype, device=device)
    return module, config


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with diffusers' present names of the attention in the middle."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".mid_block.attentions." in name:
            for old, new in OLD_ATTENTION_NAMES.items():
                name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def _has_encoder(config: VaeConfig, weights: Mapping[str, Tensor]) -> bool:
    """Return whether both the encoder and its last convolution are there, as far as needed."""
    has_last = config.use_quant_conv or config.is_temporal
    parts = ENCODER_PARTS if has_last else ENCODER_PARTS[:1]
    return all(any(name.startswith(part) for name in weights) for part in parts)


def _empty_module(config: VaeConfig) -> Any:
    name = TEMPORAL_CLASS if config.is_temporal else IMAGE_CLASS
    try:
        make: Any = getattr(import_module("diffusers"), name)
    except ImportError as error:
        raise MissingDependencyError(
            "The VAE could not be built: diffusers is not installed or does not import. Run "
            '"pip install diffusers".'
        ) from error
    with torch.device("meta"), WithoutNumbers():
        return make(**config.to_dict())
