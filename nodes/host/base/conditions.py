"""What a CONDITIONING tells a Latte: text, a class, or nothing; and whether its model reads that.

A class travels in the options of a conditioning, as a number or a name: only the model knows how
many classes there are and what they are called. The tensor beside it is a placeholder, because
many nodes expect one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ....latte_core.checkpoint.recognition.families import CLASS_NODE, UNCONDITIONAL_NODE
from ....latte_core.checkpoint.recognition.titles import title_of
from ....latte_core.config.class_names import find_class
from ....latte_core.config.latte import LatteConfig
from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.errors import IncompatibleInputsError, InvalidInputError

CLASS_KEY = "latte_class"
UNCONDITIONAL_KEY = "latte_unconditional"
ANY_CLASS = "any class"  # the null class, whose number depends on the model
TEXT_ENCODE = "Latte Text Encode"

TEXT, CLASS, NOTHING = "text", "class", "nothing"
READS = {TEXT: "reads text", CLASS: "reads a class", NOTHING: "reads neither text nor classes"}
CLIP_WIDTHS = (768, 1024, 1280, 2048)
MAKERS = {TEXT: TEXT_ENCODE, CLASS: CLASS_NODE, NOTHING: UNCONDITIONAL_NODE}

Config = LatteT2VConfig | LatteConfig


def class_conditioning(label: int | str) -> list[list[Any]]:
    """Return the CONDITIONING of a class: its number, its name, or `ANY_CLASS`."""
    return [[torch.zeros(1, 1, 1), {CLASS_KEY: label}]]


def no_conditioning() -> list[list[Any]]:
    """Return the CONDITIONING of a video that shows anything the model was trained on."""
    return [[torch.zeros(1, 1, 1), {UNCONDITIONAL_KEY: True}]]


def kind_told(options: Mapping[str, Any]) -> str:
    """Return what the options of a conditioning say that it is."""
    if CLASS_KEY in options:
        return CLASS
    return NOTHING if UNCONDITIONAL_KEY in options else TEXT


def kind_read(config: Config) -> str:
    """Return what a model with this config reads."""
    if isinstance(config, LatteT2VConfig):
        return TEXT
    return CLASS if config.conditioning == "class" else NOTHING


def takes_any_class(config: Config) -> bool:
    """Return whether a model with this config has a label for any class."""
    return isinstance(config, LatteConfig) and config.has_null_class


def check_kind(config: Config, options: Mapping[str, Any], socket: str, node: str) -> None:
    """Refuse a conditioning of a kind that the model does not read.

    No condition means any class to a model that has learned what that is.

    Args:
        config: of the model.
        options: of the conditioning.
        socket: the input it arrived on, "positive" or "negative".
        node: which node's input that is.

    Raises:
        IncompatibleInputsError: naming both sockets, what came and which node gives the right one.
    """
    told, read = kind_told(options), kind_read(config)
    if told == read or (told == NOTHING and takes_any_class(config)):
        return
    found = {
        TEXT: "text",
        CLASS: f'a class ({options.get(CLASS_KEY)}) from "{CLASS_NODE}"',
        NOTHING: f'what "{UNCONDITIONAL_NODE}" gives, which is no condition',
    }
    raise IncompatibleInputsError(
        f'The "{socket}" input of {node} got {found[told]}, but its "model" input got '
        f"{title_of(config)}, which {READS[read]}. Connect the {socket} output of "
        f'"{MAKERS[read]}" to "{socket}", or load another model.'
    )


def guess_encoder(width: int) -> str:
    """Return a sentence, behind a space, about an encoder that text of this width may be from."""
    return " It looks like CLIP." if width in CLIP_WIDTHS else ""


def find_label(
    config: LatteConfig, names: Sequence[str], options: Mapping[str, Any], socket: str, node: str
) -> int:
    """Return the label that a conditioning means for a model.

    Args:
        config, options, socket, node: see `check_kind`.
        names: of the model's classes, in the order of labels; may be empty.

    Returns:
        0 .. num_classes, the last for any class.

    Raises:
        InvalidInputError: for a class that the model does not have, naming those it has.
    """
    wanted = options.get(CLASS_KEY, ANY_CLASS)
    if wanted == ANY_CLASS:
        return config.null_class
    try:
        return find_class(wanted, names, config.num_classes)
    except InvalidInputError as error:
        raise InvalidInputError(
            f'The "{socket}" input of {node} got the class {wanted!r} from "{CLASS_NODE}", but its '
            f'"model" input got {title_of(config)}. {error} Set class_name or class_number of '
            f'"{CLASS_NODE}".'
        ) from error
