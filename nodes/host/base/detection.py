"""Recognise Latte's weights among others by names and first dimensions, without ComfyUI.

Quantised files pack the second dimension and lazy readers may not have it, so neither weights nor
later dimensions are looked at (position tables excepted, which nothing packs); what only a config
can tell travels in one small extra tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from ....latte_core.checkpoint.recognition.detect import config_in, config_in_tensor, detect_t2v
from ....latte_core.checkpoint.recognition.detect_latte import detect_latte
from ....latte_core.checkpoint.recognition.names import CONFIG_TENSOR, T2V_MARK
from ....latte_core.config.class_names import known_names
from ....latte_core.config.latte import LatteConfig
from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.errors import LatteError, WeightMismatchError
from ....latte_core.model.latte.transformer import Latte
from ....latte_core.model.t2v.transformer import LatteT2V

T2V_MODEL = "latte_t2v"
CLASS_MODEL = "latte"
IMAGE_MODELS = (T2V_MODEL, CLASS_MODEL)
UNUSED_TENSORS = ("caption_projection.y_embedding",)
# Where a config keeps the names of its classes; the underscore says that no weight depends on it.
NAMES_KEY = "_class_names"
NAMES_SETTING = "class_names"

Config = LatteT2VConfig | LatteConfig


def is_latte(names: Iterable[str], prefix: str = "") -> bool:
    """Whether tensors under these names are a text-to-video Latte."""
    return f"{prefix}{T2V_MARK}" in names


def config_to_tensor(config: Config, names: Sequence[str] = ()) -> Tensor:
    """Write a config as the bytes of its JSON, so that it survives files without metadata.

    Args:
        config: of the transformer.
        names: of its classes, in the order of labels.
    """
    values = {**config.to_dict(), NAMES_KEY: list(names)} if names else config.to_dict()
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


def config_from_tensor(tensor: Tensor) -> LatteT2VConfig:
    """Read what `config_to_tensor` wrote for a text-to-video model.

    Raises:
        WeightMismatchError: if the tensor does not hold a config.
    """
    try:
        values = json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))
        return LatteT2VConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightMismatchError(
            f"The tensor {CONFIG_TENSOR} of this Latte file does not hold a transformer config "
            f"({error}). The file is damaged; load the original weights again."
        ) from error


def detect(
    tensors: Mapping[str, Any], prefix: str = "", metadata: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Return the `unet_config` of a Latte file, or None if the file is something else.

    The config comes from its own tensor, else from the header, else from names and what is known
    of the released models.

    Raises:
        CheckpointError: if the file is a Latte whose config contradicts its weights.
    """
    if not is_latte(tensors, prefix):
        return detect_class_model(tensors, prefix, metadata)
    own = tensors.get(f"{prefix}{CONFIG_TENSOR}")
    stated = None if own is None else config_from_tensor(own)
    config = detect_t2v(tensors, metadata, config=stated, prefix=prefix)
    return None if config is None else {"image_model": T2V_MODEL, **settings_of(config)}


def detect_class_model(
    tensors: Mapping[str, Any], prefix: str, metadata: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """Do the same for class-conditional and unconditional models and for DiT's image models."""
    config = detect_latte(tensors, metadata, prefix=prefix)
    if config is None:
        return None
    saved = tensors.get(f"{prefix}{CONFIG_TENSOR}")
    own = config_in_tensor(saved) if isinstance(saved, Tensor) else config_in(metadata)
    names = {NAMES_SETTING: names_in(own or {}, config.num_classes)}
    return {"image_model": CLASS_MODEL, **settings_of(config), **names}


def settings_of(config: Config) -> dict[str, Any]:
    """Return a config as plain settings."""
    values = config.to_dict()
    del values["_class_name"]
    return values


def names_in(own: Mapping[str, Any], num_classes: int) -> list[str]:
    """Return the names of a model's classes: those its config states, or else those of UCF101 if
    it has as many classes.
    """
    stated: object = own.get(NAMES_KEY)
    names = cast("list[object]", stated) if isinstance(stated, list) else []
    if len(names) == num_classes and all(isinstance(name, str) for name in names):
        return [str(name) for name in names]
    return list(known_names(num_classes))


def config_from_settings(settings: Mapping[str, Any], kind: type[Config]) -> Config:
    """Return the transformer's config out of a `unet_config`, which carries more than that."""
    known = {field.name for field in fields(kind)}
    return kind.from_dict({k: v for k, v in settings.items() if k in known})


def can_guess(config: Config, tensors: Mapping[str, Any], names: Sequence[str] = ()) -> bool:
    """Whether a file with these tensors needs no config tensor to be read back."""
    try:
        if isinstance(config, LatteT2VConfig):
            return detect_t2v(tensors) == config
        is_known = tuple(names) == known_names(config.num_classes)
        return is_known and detect_latte(tensors) == config
    except LatteError:
        return False


def check_complete(tensors: Mapping[str, Any], config: Config) -> None:
    """Compare names and first dimensions with the model that `config` describes.

    ComfyUI loads weights leniently, and with dynamic memory a missing one becomes zeros.

    Raises:
        WeightMismatchError: naming the first tensors that are missing or have another size.
    """
    with torch.device("meta"):
        model = LatteT2V(config) if isinstance(config, LatteT2VConfig) else Latte(config)
        expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise WeightMismatchError(
            f"This Latte file lacks {len(missing)} of {len(expected)} weights, the first is "
            f"{missing[0]}. It is not whole; fetch or convert it again."
        )
    wrong = [name for name in expected if tensors[name].shape[0] != expected[name].shape[0]]
    if wrong:
        name = wrong[0]
        raise WeightMismatchError(
            f"The Latte weight {name} has {tensors[name].shape[0]} rows, but the model that the "
            f"file describes expects {expected[name].shape[0]}. Load it with the config.json that "
            "belongs to it."
        )
