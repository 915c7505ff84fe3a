"""Open a Latte transformer as a ComfyUI MODEL, through ComfyUI's own loading functions."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ....latte_core.checkpoint.reading.folders import config_beside
from ....latte_core.checkpoint.reading.reader import read_header, read_tensors
from ....latte_core.checkpoint.recognition.architectures import ARCHITECTURES, T2V
from ....latte_core.checkpoint.recognition.detect import config_in, is_t2v_config
from ....latte_core.checkpoint.recognition.identify import TRANSFORMERS, identify, require_family
from ....latte_core.checkpoint.recognition.settle import found_in, saved_config, settle_config
from ....latte_core.config.latte import LatteConfig as NoTextConfig
from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.pipelines.classes.parts import read_names
from ....latte_core.pipelines.model_folders import locate_class_model
from ..base.detection import (
    CLASS_MODEL,
    CONFIG_TENSOR,
    NAMES_KEY,
    config_to_tensor,
    detect,
    names_in,
)
from .latte import LatteClassConfig
from .origin import ORIGIN, Origin
from .registration import wrapped_by_us
from .t2v import LatteConfig

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
    origin = Origin.of(Path(path), metadata)
    if origin is not None:
        patcher.set_attachments(ORIGIN, origin)
    return patcher


def read_transformer(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a transformer's tensors under their released names, and its file's metadata.

    What is known of its config beside the file is put among the tensors, which is where detection
    looks first.

    Raises:
        UnknownArchitectureError: if there is no Latte in the file.
        WeightMismatchError: if a config contradicts the weights, or the head count is unknown.
    """
    weights = path / "transformer" if (path / "transformer").is_dir() else path
    require_family(weights, TRANSFORMERS, "a Latte model")
    header = read_header(weights)
    found = found_in(header, ARCHITECTURES)
    file = read_tensors(weights)
    tensors = {short: file.tensors[name] for short, name in found[1].names.items()}
    if found[0] is not T2V:
        saved = saved_config(file, found[1])
        config = settle_config(header, weights, None, found, saved=saved)
        assert isinstance(config, NoTextConfig)
        own = saved or config_in(file.metadata) or {}
        tensors[CONFIG_TENSOR] = config_to_tensor(config, names_of(config, own, path))
        logger.info("Latte: %s: %s", path.name, identify(path).sentence)
        return tensors, dict(file.metadata)
    config = config_beside(weights)
    if config is not None and is_t2v_config(config) and CONFIG_TENSOR not in tensors:
        tensors[CONFIG_TENSOR] = config_to_tensor(LatteT2VConfig.from_dict(config))
    return tensors, dict(file.metadata)


def names_of(config: NoTextConfig, own: Mapping[str, Any], path: Path) -> Sequence[str]:
    """Return the names of a model's classes: from its own config, else from beside it."""
    if NAMES_KEY in own:
        return names_in(own, config.num_classes)
    return read_names(locate_class_model(path)[1], config.num_classes)


def build_unregistered(
    tensors: dict[str, Tensor], wanted: torch.dtype | None, disable_dynamic: bool
) -> Any:
    """Do what ComfyUI's loader does, for a ComfyUI that was not taught to recognise Latte."""
    management = comfy.model_management
    settings = detect(tensors) or {}
    kind = LatteClassConfig if settings.get("image_model") == CLASS_MODEL else LatteConfig
    config = kind(settings)
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
