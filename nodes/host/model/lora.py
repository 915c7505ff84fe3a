"""Put a LoRA file onto a Latte MODEL, and count what matched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora

from ....latte_core.checkpoint.lora.reader import read_lora
from ....latte_core.errors import WeightMismatchError
from .lora_keys import report, transformer_shapes, with_every_alpha


def apply_lora(model: Any, path: Path, strength: float) -> tuple[Any, str]:
    """Return a patched clone of `model` and a sentence that says how much of the file matched.

    PEFT, kohya and native names are understood, and files made for the spatial half only.

    Raises:
        CheckpointError: if the file cannot be read, or no layer matches.
        IncompatibleInputsError: if it was made for a model of another width.
    """
    lora = read_lora(path, transformer_shapes(model.model))
    # a plain dict: the names are native already, and read by nobody a second time
    known = dict(comfy.lora.model_lora_keys_unet(model.model, {}))
    tensors = with_every_alpha(path.name, lora)
    patches = comfy.lora.load_lora(tensors, known, log_missing=False)
    patched = model.clone()
    applied = len(patched.add_patches(patches, strength))
    if applied < len(lora.matched):
        raise WeightMismatchError(
            f"{path.name} was not put onto the model: ComfyUI understood {applied} of its "
            f"{len(lora.matched)} layers. Save the LoRA again in the PEFT or kohya format."
        )
    more = f" Strength {strength:g}." if strength else " At strength 0 nothing changes."
    return patched, report(path.name, lora, more)
