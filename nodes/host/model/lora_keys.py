"""What ComfyUI's own LoRA loaders and hooks are told of a LoRA for Latte.

They all look a file's names up in the table of `comfy.lora.model_lora_keys_unet` and hand both to
`comfy.lora.load_lora`. The table gets every spelling of Latte's layers; in front of `load_lora`
stands the same reader as on the command line, which knows parts, sizes and alpha. PEFT's settings
stand beside the tensors that `comfy.utils.load_torch_file` returns, so those that it reads from a
LoRA file remember where they came from. LoRAs on other models pass all three as they are.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ....latte_core.checkpoint.lora.layouts import (
    NATIVE_PREFIX,
    LoraWeights,
    native_lora,
    spellings,
    split_name,
)
from ....latte_core.checkpoint.lora.matrices import part_of
from ....latte_core.checkpoint.lora.reader import stated_settings
from ....latte_core.checkpoint.reading.finite import is_finite
from ....latte_core.checkpoint.recognition.families import LORA_MARKS
from ....latte_core.errors import CorruptCheckpointError, LatteError
from ....latte_core.model.weights.lora import ALPHA_NAME
from ....latte_core.model.weights.merge import DOWN_PARTS

logger = logging.getLogger("latte")

TEXT_STARTS = ("text_encoder", "lora_te")  # of names that change the text encoder
UNKNOWN_FILE = "The LoRA"
MODEL_CLASS, MODEL_MODULE = "LatteModel", "nodes.host.model.native"


class LoraFile(dict[str, Any]):
    """The tensors of a LoRA file, and what its settings say.

    Args:
        tensors: as they were read.
        path: of the file.
    """

    def __init__(self, tensors: Mapping[str, Any], path: Path) -> None:
        super().__init__(tensors)
        self.name = path.name
        self.settings: Mapping[str, Any] | LatteError
        try:
            self.settings = stated_settings(path)
        except LatteError as error:  # raised where the LoRA is put onto a Latte, not before
            self.settings = error


class LatteKeys(dict[str, Any]):
    """ComfyUI's table of names for one Latte.

    Args:
        known: name -> weight of the model.
        shapes: released name -> weight of the model.
    """

    def __init__(self, known: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
        super().__init__(known)
        self.shapes = shapes


def settings_kept(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let tensors of a LoRA file remember its settings; everything else passes untouched."""

    def load_torch_file(ckpt: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = original(ckpt, *args, **kwargs)
        tensors = loaded[0] if isinstance(loaded, tuple) else loaded
        if type(tensors) is not dict or not is_lora(tensors):
            return loaded
        file = LoraFile(tensors, Path(ckpt))
        return (file, *loaded[1:]) if isinstance(loaded, tuple) else file

    return load_torch_file


def is_lora(tensors: Mapping[Any, Any]) -> bool:
    """Whether names say that tensors are a LoRA, for whatever model."""
    return any(mark in str(key) for key in tensors for mark in LORA_MARKS)


def names_added(original: Callable[..., Any]) -> Callable[..., Any]:
    """Add the names of Latte's layers in every trainer's spelling to ComfyUI's table."""

    def model_lora_keys_unet(model: Any, key_map: Any = None) -> Any:
        known = original(model, {} if key_map is None else key_map)
        if not is_latte(model):
            return known
        shapes = transformer_shapes(model)
        for name in shapes:
            if name.endswith(".weight"):
                for spelled in spellings(name.removesuffix(".weight")):
                    known.setdefault(spelled, NATIVE_PREFIX + name)
        return LatteKeys(known, shapes)

    return model_lora_keys_unet


def is_latte(model: Any) -> bool:
    """Whether a model is one of this pack's, also of an earlier import of it."""
    return any(
        one.__qualname__ == MODEL_CLASS and one.__module__.endswith(MODEL_MODULE)
        for one in type(model).__mro__
    )


def transformer_shapes(model: Any) -> dict[str, Any]:
    """Return the weights of a model's transformer by their released names."""
    weights = model.state_dict()
    return {
        name[len(NATIVE_PREFIX) :]: value
        for name, value in weights.items()
        if name.startswith(NATIVE_PREFIX)
    }


def read_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Have LoRAs that are put onto a Latte read by the reader that all hosts share."""

    def load_lora(lora: Any, to_load: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(to_load, LatteKeys):
            lora = read_for(lora, to_load)
        return original(lora, to_load, *args, **kwargs)

    return load_lora


def read_for(tensors: Mapping[str, Any], known: LatteKeys) -> Mapping[str, Any]:
    """Return a LoRA under the names and with the alphas that ComfyUI reads, and say what it does.

    Raises:
        CheckpointError: if the LoRA or its settings cannot be used, or no layer is changed.
        IncompatibleInputsError: if it was made for a model of another width.
    """
    settings = getattr(tensors, "settings", None)
    if isinstance(settings, LatteError):
        raise settings
    if tensors and all(key.startswith(TEXT_STARTS) for key in tensors):
        logger.info("Latte: a LoRA for the text encoder leaves the model as it is.")
        return tensors
    name = getattr(tensors, "name", UNKNOWN_FILE)
    lora = native_lora(name, tensors, settings=settings, shapes=known.shapes)
    elsewhere = {key: tensors[key] for key in lora.unmatched}
    unused = tuple(key for key in elsewhere if split_name(key)[0] not in known)
    report(name, dataclasses.replace(lora, unmatched=unused))
    if settings is None and not lora.has_alpha:
        logger.warning(
            "Latte: %s came without its file's settings, so its alpha is taken for its rank. If "
            'they state another one, use "Latte LoRA Loader".',
            name,
        )
    return {**elsewhere, **with_every_alpha(name, lora)}


def report(name: str, lora: LoraWeights, more: str = "") -> str:
    """Log in numbers what a LoRA does, as a warning if not all of it does; return the sentence."""
    text = f"{name}: {lora.sentence}{more}"
    logger.log(logging.WARNING if lora.unmatched or lora.idle else logging.INFO, "Latte: %s", text)
    return text


def with_every_alpha(name: str, lora: LoraWeights) -> dict[str, Any]:
    """Return the tensors with an alpha for every pair of matrices: its rank where none is stated.

    Loaders that multiply alpha take a missing one for 1.

    Raises:
        CorruptCheckpointError: if a number is NaN or infinite; ComfyUI's loaders do not look.
    """
    tensors = dict(lora.tensors)
    broken = [key for key, value in tensors.items() if not is_finite(value)]
    if broken:
        raise CorruptCheckpointError(
            f"{name} holds NaN or infinite numbers in {len(broken)} of its {len(tensors)} tensors, "
            f"{broken[0]} first. Get the LoRA again, or one from an earlier step of its training."
        )
    for layer in lora.matched:
        down = part_of(tensors, layer, DOWN_PARTS)
        if down is not None:
            key = f"{NATIVE_PREFIX}{layer}.{ALPHA_NAME}"
            tensors.setdefault(key, torch.tensor(float(down.shape[0])))
    return tensors
