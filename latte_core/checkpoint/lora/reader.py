"""Read a LoRA file, and merge it into a model for sampling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...model.weights.merge import LoraPatch, merge_lora, refuse_quantised
from ...model.weights.released import released_weights
from ..reading.reader import read_header, read_tensors
from ..recognition.detect import Shaped
from ..recognition.families import Family
from ..recognition.identify import require_family
from .layouts import LoraWeights, native_lora
from .settings import PEFT_STEM, peft_settings, settings_in

logger = logging.getLogger("latte")

PEFT_ENDINGS = (".safetensors", ".bin")  # of the file that PEFT writes, the preferred first


def read_lora(path: Path | str, shapes: Mapping[str, Shaped] | None = None) -> LoraWeights:
    """Read a LoRA of any trainer under native names.

    Args:
        path: a file, or a folder that PEFT wrote. PEFT's settings give the alpha; see `settings`.
        shapes: released name -> weight of the model it is for; checked if given.

    Raises:
        UnknownArchitectureError: for another kind of file, or if no layer of Latte is changed.
        IncompatibleInputsError: if a layer has another size than in `shapes`.
        CheckpointError: if the file cannot be read.
    """
    path = lora_file(Path(path))
    require_family(path, Family.LORA, "a LoRA")
    file = read_tensors(path)
    settings = peft_settings(path)
    return native_lora(path.name, file.tensors, file.metadata, settings=settings, shapes=shapes)


def lora_file(path: Path) -> Path:
    """Return the file of PEFT's in a folder; anything else as it is."""
    files = (path / f"{PEFT_STEM}{ending}" for ending in PEFT_ENDINGS)
    return next((file for file in files if file.is_file()), path)


def stated_settings(path: Path) -> Mapping[str, Any]:
    """Return PEFT's settings of a LoRA file whose tensors somebody else reads; maybe none.

    Raises:
        CheckpointError: if they cannot be read.
    """
    return peft_settings(path) or settings_in(path.name, read_header(path).metadata)


def merge_lora_file(model: nn.Module, path: Path | str, strength: float = 1.0) -> LoraPatch:
    """Merge a LoRA file into a model, and log how much of it is used; see `merge_lora`.

    Raises:
        InvalidInputError: for a strength that is no finite number, or a quantised model.
        IncompatibleInputsError: if it does not fit the model, or is of a kind only ComfyUI applies.
        CheckpointError: if it cannot be read, or was made for another model; see `read_lora`.
    """
    refuse_quantised(model.modules())
    weights = {f"{layer}.weight": one for layer, one in released_weights(model).items()}
    lora = read_lora(path, weights)
    patch = merge_lora(model, lora.tensors, strength)
    more = unchanged_sentence(lora, patch)
    level = logging.WARNING if lora.unmatched or lora.idle or more else logging.INFO
    logger.log(level, "%s: %s Strength %g.%s", Path(path).name, lora.sentence, strength, more)
    return patch


def unchanged_sentence(lora: LoraWeights, patch: LoraPatch) -> str:
    """Say how many weights stayed as they were though the LoRA has numbers for them."""
    count = len(patch.unchanged_layers - set(lora.idle))
    if not count:
        return ""
    if not patch.strength:
        return " At this strength nothing changes."
    return (
        f" {count} of these layers did not change: what it adds to them is smaller than their "
        "numbers can show."
    )
