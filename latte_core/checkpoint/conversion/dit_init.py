"""Start a Latte from DiT's ImageNet weights, as the paper does (docs/model.md 4, 9.4).

Latte has as many blocks as a DiT of its size, with the same names and shapes. All of them are
taken, those that become temporal too; the position of frames, labels of other classes and second
attentions have no counterpart in DiT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.latte import LatteConfig
from ...errors import IncompatibleInputsError, InvalidInputError, UnknownArchitectureError
from ...model.latte.transformer import Latte
from ..loading.loader import load_one_of, transformer_path
from ..reading.reader import read_header
from ..recognition.architectures import LATTE
from ..recognition.identify import identify_header
from ..recognition.names import LATTE_INPUT, VIDEO_NAMES
from ..recognition.settle import found_in
from ..recognition.titles import title_of

SHOWN_NAMES = 4
# What DiT and Latte must have in common -> what it is called.
SHARED = {
    "hidden_size": "width",
    "depth": "number of blocks",
    "attention_heads": "number of heads of an attention",
    "patch_size": "patch size",
    "in_channels": "number of latent channels",
    "out_channels": "number of output channels",
    "mlp_ratio": "feed-forward ratio",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Initialization:
    """What became of an image model's weights.

    Args:
        source: base name of the file.
        taken: weights of the model that are the image model's now.
        left_out: weights of the image model that the model has no place for.
        kept: weights of the model that are as they were.
        sentence: the same for a person.
    """

    source: str
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    kept: tuple[str, ...]
    sentence: str


def initialize_from_dit(
    model: Latte, path: Path | str, config: Mapping[str, Any] | None = None
) -> Initialization:
    """Give a new Latte the weights of a DiT image model of its size, name by name.

    The spatial table is taken if it is for the same number of places, and labels if there are as
    many classes. A layer that embeds tubelets gets the image layer's share for each of its frames.

    Args:
        model: changed in place; its device, type and `requires_grad` stay.
        path: DiT weights in any layout that `load_transformer` reads.
        config: settings of the DiT that neither its names nor its sizes show (`num_heads` of a
            width that was never published).

    Raises:
        IncompatibleInputsError: if the two differ in what they must share, naming all of it.
        UnknownArchitectureError: if the file is no DiT, saying what it is.
        InvalidInputError: if the model has no storage for weights.
        CheckpointError: for a file that cannot be read, see `load_transformer`.
    """
    if model.pos_embed.is_meta:
        raise InvalidInputError(
            "The Latte to start has no storage for weights, because it was built on the meta "
            "device. Build it on a real one."
        )
    path = transformer_path(Path(path))
    name = require_image_model(path)
    given = {**(config or {}), "has_temporal": False}
    image = load_one_of((LATTE,), path, given, dtype=torch.float32, device="cpu")
    assert isinstance(image, Latte)
    require_same_sizes(name, image.config, model.config)
    taken = take(model, image)
    left_out = tuple(key for key in image.state_dict() if key not in taken)
    kept = tuple(key for key in model.state_dict() if key not in taken)
    parts = [f"Took {len(taken)} weights from {name}, {title_of(image.config)}."]
    parts += [f"Not used: {listed(left_out)}."] if left_out else []
    parts += [f"As before: {listed(kept)}."] if kept else []
    return Initialization(
        source=name, taken=taken, left_out=left_out, kept=kept, sentence=" ".join(parts)
    )


def require_image_model(path: Path) -> str:
    """Return the file's name if it can be an image model's.

    Raises:
        UnknownArchitectureError: if it is another model, saying which.
    """
    header = read_header(path)
    selection = found_in(header, (LATTE,))[1]
    if any(name in selection.names for name in VIDEO_NAMES):
        raise UnknownArchitectureError(
            f"{header.name} cannot be used as an image model to start from. "
            f"{identify_header(header).sentence} To train a video model on, load it itself."
        )
    return header.name


def require_same_sizes(name: str, image: LatteConfig, model: LatteConfig) -> None:
    """Refuse an image model of another size.

    Raises:
        IncompatibleInputsError: naming everything in which they differ.
    """
    differing = [
        f"{title} {getattr(image, key)} instead of {getattr(model, key)}"
        for key, title in SHARED.items()
        if getattr(image, key) != getattr(model, key)
    ]
    if differing:
        raise IncompatibleInputsError(
            f"{name} cannot start this model, which is {title_of(model)}: it is {title_of(image)}, "
            f"with {', '.join(differing)}. Take the DiT of the same size and patch, or build the "
            "model with its sizes."
        )


@torch.no_grad()
def take(model: Latte, image: Latte) -> tuple[str, ...]:
    """Copy the weights that have a place in the model, and return their names."""
    given, taken = image.state_dict(), list[str]()
    for name, value in model.state_dict().items():
        if name not in given:
            continue
        weight = given[name]
        if name == LATTE_INPUT and model.config.tubelet_size > 1:
            weight = share_between_frames(weight, model.config.tubelet_size)
        if weight.shape == value.shape:
            value.copy_(weight)
            taken.append(name)
    return tuple(taken)


def share_between_frames(kernel: Tensor, tubelet: int) -> Tensor:
    """Turn a kernel (D, C, P, P) into (D, C, t, P, P) that gives the same for t equal frames."""
    return (kernel / tubelet).unsqueeze(2).expand(-1, -1, tubelet, -1, -1)


def listed(names: tuple[str, ...]) -> str:
    """Return names for a sentence, the first few of many."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
