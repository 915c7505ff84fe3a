"""Build diffusers' VAE classes from weights, on the meta device first."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError
from ..meta_modules import WithoutNumbers, fill_module
from .config import IMAGE_CLASS, TEMPORAL_CLASS, VaeConfig
from .found import PART, find_vae


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
    found = find_vae(tensors, config)
    module = _empty_module(found.config)
    if not found.can_encode:
        module.encoder = module.quant_conv = None
    fill_module(module, found.take(tensors), part=PART, dtype=dtype, device=device)
    return module, found.config


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
