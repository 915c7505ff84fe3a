"""Read a LoRA file, and merge it into a model for sampling."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ...model.weights.merge import LoraPatch, merge_lora, refuse_quantised
from ...model.weights.released import released_weights
from ..reading.folders import config_beside
from ..reading.reader import read_tensors
from ..recognition.detect import Shaped
from ..recognition.families import Family
from ..recognition.identify import require_family
from .layouts import LoraWeights, native_lora

logger = logging.getLogger("latte")

PEFT_SETTINGS = "adapter_config.json"


def read_lora(path: Path | str, shapes: Mapping[str, Shaped] | None = None) -> LoraWeights:
    """Read a LoRA of any trainer under native names.

    Args:
        path: a file, or a folder that PEFT wrote. PEFT's settings beside it give the alpha.
        shapes: released name -> weight of the model it is for; checked if given.

    Raises:
        UnknownArchitectureError: for another kind of file, or if no layer of Latte is changed.
        IncompatibleInputsError: if a layer has another size than in `shapes`.
        CheckpointError: if the file cannot be read.
    """
    path = Path(path)
    require_family(path, Family.LORA, "a LoRA")
    file = read_tensors(path)
    settings = config_beside(path, PEFT_SETTINGS)
    return native_lora(path.name, file.tensors, file.metadata, settings=settings, shapes=shapes)


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
    level = logging.WARNING if lora.unmatched else logging.INFO
    logger.log(level, "%s: %s Strength %g.", Path(path).name, lora.sentence, strength)
    return patch
