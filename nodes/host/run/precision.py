"""Precision inside ComfyUI: a model on the core's own quantised layers, or a switch for its runs.

Quantised weights go through the core's loading function, so that the core makes its own layers for
them (comfy/ops.py, mixed_precision_ops): those know dynamic memory, offloading and LoRAs.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.patcher_extension
import comfy.sd
import torch
from torch import Tensor, nn

from ....latte_core.errors import IncompatibleInputsError
from ....latte_core.precision.accumulation import accumulate_in_float16, check_float16_accumulation
from ....latte_core.precision.formats import Format, format_named
from ....latte_core.precision.matmul import has_product
from ....latte_core.precision.names import ACCUMULATION
from ....latte_core.precision.packing import MARK, pack
from ....latte_core.precision.trial import no_product
from ..base.detection import CONFIG_TENSOR, config_to_tensor

KEY = "latte_precision"
PREFIX = "diffusion_model."
# What a MODEL carries beside its weights, and a model of other weights takes over.
CARRIED = (
    *("patches", "patches_uuid", "object_patches", "weight_wrapper_patches", "model_options"),
    *("attachments", "additional_models", "callbacks", "wrappers", "injections"),
    *("hook_patches", "forced_hooks", "hook_mode", "force_cast_weights"),
)

logger = logging.getLogger("latte")


def with_precision(model: Any, name: str | None) -> Any:
    """Return a MODEL that computes as a name of `PRECISIONS` says; None only takes the switch off.

    Raises:
        IncompatibleInputsError: if this ComfyUI has no such layers, or the model is quantised.
        InvalidInputError: if the switch has no effect on the model.
    """
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    if name in (None, ACCUMULATION):
        patched = model.clone()
        patched.remove_wrappers_with_key(kind, KEY)
        if name == ACCUMULATION:
            check_float16_accumulation(compute_dtype(model), model.load_device)
            patched.add_wrapper_with_key(kind, KEY, sum_in_float16)
        return patched
    return quantised(model, format_named(str(name)))


def sum_in_float16(executor: Any, *given: Any, **named: Any) -> Any:
    """Run a sampler with sums in float16."""
    with accumulate_in_float16():
        return executor(*given, **named)


def compute_dtype(model: Any) -> torch.dtype:
    """Return the type that the model's layers multiply in."""
    inner = model.model
    return getattr(inner, "manual_cast_dtype", None) or inner.get_dtype()


def quantised(model: Any, kind: Format) -> Any:
    """Return a MODEL of its own with wide layers in eight bits, and everything else as it was.

    Raises:
        IncompatibleInputsError: if this ComfyUI has no such layers, or the model is quantised.
    """
    check_core(kind)
    tensors = pack(own_weights(model, kind), kind.name)
    config = model.model.model_config
    tensors[CONFIG_TENSOR] = config_to_tensor(config.transformer_config(), config.class_names())
    made = comfy.sd.load_diffusion_model_state_dict(tensors)
    if made is None:
        raise IncompatibleInputsError(
            "The quantised model was not recognised as a Latte: another node pack has replaced "
            "ComfyUI's model detection. Disable that pack, or load a file that is quantised "
            f"already (python -m latte_core convert --quantize {kind.name})."
        )
    carried = model.clone()
    for attribute in CARRIED:
        if hasattr(carried, attribute) and hasattr(made, attribute):
            setattr(made, attribute, getattr(carried, attribute))
    is_native = has_product(kind, made.load_device)
    if not is_native:
        logger.warning("Latte Precision: %s", no_product(kind, made.load_device))
    tell_layers(made, kind, is_native)
    return made


def tell_layers(made: Any, kind: Format, is_native: bool) -> None:
    """Say how the core's layers multiply, and have them unpack where the device has no product."""
    layers = [one for one in made.model.modules() if getattr(one, "layout_type", None) is not None]
    unpacks = "_full_precision_mm"  # of the core's layers: multiply by the weight that is meant
    for layer in layers if not is_native else ():
        if hasattr(layer, unpacks):
            setattr(layer, unpacks, True)
    unpacking = sum(bool(getattr(layer, unpacks, False)) for layer in layers)
    logger.info(
        "Latte Precision: %d layers are stored as %s. ComfyUI's own layers multiply %d of them in "
        "eight bits and unpack %d.",
        *(len(layers), kind.name, len(layers) - unpacking, unpacking),
    )


def check_core(kind: Format) -> None:
    """Refuse a format that this ComfyUI has no layers for.

    Raises:
        IncompatibleInputsError: naming the formats it has.
    """
    known: list[str] = []
    try:
        from comfy import quant_ops

        if getattr(quant_ops, "_CK_AVAILABLE", True):
            known = list(quant_ops.QUANT_ALGOS)
    except (ImportError, AttributeError):
        logger.debug("This ComfyUI has no quantised layers.")
    if kind.stored_as in known:
        return
    has = f"it has {', '.join(known)}" if known else "it has none (is comfy-kitchen installed?)"
    other = ' choose "fp8", or' if "float8_e4m3fn" in known else ""
    raise IncompatibleInputsError(
        f"Latte Precision cannot make {kind.name} layers: this ComfyUI has no layers for "
        f"{kind.stored_as}; {has}. Update ComfyUI,{other} set precision to off."
    )


def own_weights(model: Any, kind: Format) -> dict[str, Tensor]:
    """Return the transformer's weights without patches, under their released names.

    Where a LoRA is patched in at the moment, the patcher's backup has the weight as it was.

    Raises:
        IncompatibleInputsError: if they are quantised already.
    """
    found: dict[str, Tensor] = {}
    for name, value in model.model.state_dict().items():
        if not name.startswith(PREFIX):
            continue
        is_plain = type(value) in (Tensor, nn.Parameter) and value.is_floating_point()
        if name.endswith(MARK) or not is_plain:
            raise IncompatibleInputsError(
                f"Latte Precision cannot make {kind.name} of this model: its weights are quantised "
                "already. Load it in 16 bits, or take this node out."
            )
        kept = model.backup.get(name)
        original = value if kept is None else getattr(kept, "weight", kept)
        found[name.removeprefix(PREFIX)] = original.detach()
    return found
