"""Put a LoRA file onto a Latte MODEL, and count what matched."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.lora

from ....latte_core.checkpoint.lora.layouts import NATIVE_PREFIX, native_lora
from ....latte_core.checkpoint.reading.reader import read_tensors
from ....latte_core.checkpoint.recognition.families import Family
from ....latte_core.checkpoint.recognition.identify import require_family
from ....latte_core.errors import WeightMismatchError

logger = logging.getLogger("latte")


def apply_lora(model: Any, path: Path, strength: float) -> tuple[Any, str]:
    """Return a patched clone of `model` and a sentence that says how much of the file matched.

    PEFT, kohya and native names are understood, and files made for the spatial half only.

    Raises:
        CheckpointError: if the file cannot be read, or no layer matches.
        IncompatibleInputsError: if it was made for a model of another width.
    """
    require_family(path, Family.LORA, "a LoRA")
    file = read_tensors(path)
    lora = native_lora(path.name, file.tensors, file.metadata, shapes=transformer_shapes(model))
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(lora.tensors, known, log_missing=False)
    patched = model.clone()
    applied = patched.add_patches(patches, strength)
    if not applied:
        raise WeightMismatchError(
            f"{path.name} changes nothing: ComfyUI understood none of its {len(lora.matched)} "
            "layers. Save the LoRA again in the PEFT or kohya format."
        )
    report = f"{path.name}: {lora.sentence} Strength {strength:g}."
    if lora.unmatched or len(applied) < len(lora.matched):
        logger.warning("Latte: %s", report)
    else:
        logger.info("Latte: %s", report)
    return patched, report


def transformer_shapes(model: Any) -> dict[str, Any]:
    """Return the transformer's weights by their released names."""
    weights = model.model.state_dict()
    return {
        name[len(NATIVE_PREFIX) :]: value
        for name, value in weights.items()
        if name.startswith(NATIVE_PREFIX)
    }
