"""Open a Latte transformer as a ComfyUI MODEL, through ComfyUI's own loading functions."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...latte_core.checkpoint.detect import is_t2v_config
from ...latte_core.checkpoint.families import Family
from ...latte_core.checkpoint.folders import config_beside
from ...latte_core.checkpoint.identify import require_family
from ...latte_core.checkpoint.names import select_model
from ...latte_core.checkpoint.reader import read_tensors
from ...latte_core.config import LatteT2VConfig
from ...latte_core.errors import UnknownArchitectureError
from .detection import CONFIG_TENSOR, config_to_tensor, detect
from .model import LatteConfig
from .registration import wrapped_by_us

logger = logging.getLogger("latte")

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def open_model(path: str, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """Load a file or a Latte-1 style folder into a model patcher.

    ComfyUI calls this again with the same arguments when it needs another copy on another device
    or without dynamic memory (`cached_patcher_init`).

    Args:
        path: a weights file, or a folder with `transformer/` in it.
        weight_dtype: a key of `WEIGHT_DTYPES`.
        disable_dynamic: load without dynamic memory; ignored where ComfyUI has none.

    Raises:
        CheckpointError: as the narrowest of its kinds, for a file that is not a whole Latte.
    """
    tensors, metadata = read_transformer(Path(path))
    wanted = WEIGHT_DTYPES[weight_dtype]
    settings = {} if wanted is None else {"dtype": wanted}
    if wrapped_by_us(comfy.model_detection.detect_unet_config):
        load = comfy.sd.load_diffusion_model_state_dict
        given = {"disable_dynamic": disable_dynamic, "metadata": metadata}
        accepted = inspect.signature(load).parameters
        kept = {name: value for name, value in given.items() if name in accepted}
        patcher = load(tensors, model_options=settings, **kept)
    else:
        patcher = build_unregistered(tensors, wanted, disable_dynamic)
    patcher.cached_patcher_init = (open_model, (path, weight_dtype))
    return patcher


def read_transformer(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a transformer's tensors under their released names, and its file's metadata.

    A config.json beside the weights is put among the tensors, which is where detection looks first.

    Raises:
        UnknownArchitectureError: if there is no text-to-video Latte in the file.
    """
    weights = path / "transformer" if (path / "transformer").is_dir() else path
    require_family(weights, Family.LATTE_T2V, "a Latte model")
    file = read_tensors(weights)
    selection = select_model(file.tensors)
    if selection is None:
        raise UnknownArchitectureError(f"{path.name} holds no Latte text-to-video transformer.")
    tensors = {short: file.tensors[name] for short, name in selection.names.items()}
    config = config_beside(weights)
    if config is not None and is_t2v_config(config) and CONFIG_TENSOR not in tensors:
        tensors[CONFIG_TENSOR] = config_to_tensor(LatteT2VConfig.from_dict(config))
    return tensors, dict(file.metadata)


def build_unregistered(
    tensors: dict[str, Tensor], wanted: torch.dtype | None, disable_dynamic: bool
) -> Any:
    """Do what ComfyUI's loader does, for a ComfyUI that was not taught to recognise Latte."""
    management = comfy.model_management
    config = LatteConfig(detect(tensors))
    supported = list(config.supported_inference_dtypes)
    dtype = wanted or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(tensors),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(tensors),
    )
    device = management.get_torch_device()
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    model = config.get_model(tensors)
    plain = comfy.model_patcher.ModelPatcher
    make = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = make(model, load_device=device, offload_device=management.unet_offload_device())
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()
    model.load_model_weights(tensors, "", **({"assign": True} if dynamic else {}))
    return patcher
