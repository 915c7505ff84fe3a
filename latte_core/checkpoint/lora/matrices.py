"""Whether the matrices of a LoRA belong together, fit the model, and do anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...errors import CorruptCheckpointError, IncompatibleInputsError
from ...model.weights.alpha import is_alpha
from ...model.weights.lora import ALPHA_NAME, NATIVE_PREFIX
from ...model.weights.merge import BIAS_PART, DOWN_PARTS, UP_PARTS
from ..recognition.detect import Shaped
from .settings import AdapterSettings, expected_alpha

MIDDLE_PART = "lora_mid.weight"  # of convolutions: the outer matrices have sizes of their own
MORE_PARTS = ("dora_scale", "diff")  # which change a layer even beside a product of zero
OTHER_KINDS = ("hada_", "lokr_")  # which divide alpha by a rank that ComfyUI finds


def part_of(tensors: Mapping[str, Tensor], layer: str, parts: Iterable[str]) -> Tensor | None:
    """Return the first of several spellings of a part that a layer has."""
    keys = (f"{NATIVE_PREFIX}{layer}.{part}" for part in parts)
    return next((tensors[key] for key in keys if key in tensors), None)


def check_matrices(
    name: str,
    tensors: Mapping[str, Tensor],
    layers: Iterable[str],
    shapes: Mapping[str, Shaped] | None,
) -> None:
    """Refuse half a layer, matrices of two ranks, and layers of another size than the model's.

    Raises:
        CorruptCheckpointError: if one of two matrices is missing, or they do not belong together.
        IncompatibleInputsError: if they do not fit the model.
    """
    for layer in layers:
        up, down = part_of(tensors, layer, UP_PARTS), part_of(tensors, layer, DOWN_PARTS)
        if up is None and down is None:
            continue
        if up is None or down is None:
            raise CorruptCheckpointError(
                f"{name} holds one of the two matrices of layer {layer}, the other is missing. "
                "Get the LoRA again."
            )
        if up.dim() < 2 or down.dim() < 2 or not down.shape[0]:
            raise CorruptCheckpointError(
                f"{name} holds tensors of {tuple(up.shape)} and {tuple(down.shape)} for layer "
                f"{layer}, which are no matrices of a LoRA. Get the LoRA again."
            )
        if part_of(tensors, layer, (MIDDLE_PART,)) is not None:
            continue
        if up.shape[1] != down.shape[0]:
            raise CorruptCheckpointError(
                f"{name} holds matrices of rank {up.shape[1]} and {down.shape[0]} for layer "
                f"{layer}, which do not belong together. Get the LoRA again."
            )
        if shapes is not None:
            check_sizes(name, layer, (up, down), shapes[f"{layer}.weight"])


def check_sizes(name: str, layer: str, pair: tuple[Tensor, Tensor], weight: Shaped) -> None:
    """Refuse matrices that are wider or narrower than a layer of the model."""
    up, down = pair
    found = {"rows": up.shape[0], "columns": math.prod(down.shape[1:])}
    wanted = {"rows": weight.shape[0], "columns": math.prod(weight.shape[1:])}
    if getattr(weight, "dtype", None) is torch.uint8:  # packed: two columns in one byte, or so
        wanted["columns"] = found["columns"]
    for side, count in found.items():
        if count != wanted[side]:
            raise IncompatibleInputsError(
                f"{name} does not fit this model: layer {layer} has {count} {side} in the LoRA "
                f"and {wanted[side]} in the model. It was made for a model of another width."
            )


def add_alphas(
    name: str,
    tensors: dict[str, Tensor],
    layers: Mapping[str, str],
    settings: AdapterSettings,
) -> None:
    """Add the alpha of each layer where only PEFT's settings state it, and check those stated.

    PEFT scales by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`; the native format
    divides the alpha tensor by the rank.

    Args:
        name: base name of the file, for messages.
        tensors: under native names; changed.
        layers: names of Latte's layers -> what PEFT called them.
        settings: of the file.

    Raises:
        CorruptCheckpointError: for an alpha that is none, or a rank that is not the file's.
    """
    for layer, spelled in layers.items():
        key = f"{NATIVE_PREFIX}{layer}.{ALPHA_NAME}"
        if key in tensors:
            check_alpha(name, layer, tensors[key])
            continue
        down, names = part_of(tensors, layer, DOWN_PARTS), (spelled, layer)
        alpha = settings.alpha_of(names)
        if down is None:
            start = tuple(f"{NATIVE_PREFIX}{layer}.{kind}" for kind in OTHER_KINDS)
            if alpha is not None and any(one.startswith(start) for one in tensors):
                tensors[key] = torch.tensor(alpha, dtype=torch.float32)
            continue
        stated, rank = settings.rank_of(names), down.shape[0]
        if stated is not None and stated != rank:
            raise CorruptCheckpointError(
                f"The strength of {name} is not known: its settings say rank {stated:g} for layer "
                f"{layer}, its matrices have rank {rank}. They belong to another file; get both "
                "again."
            )
        if alpha is not None:
            scaled = alpha * rank**0.5 if settings.use_rslora else alpha
            tensors[key] = torch.tensor(scaled, dtype=torch.float32)


def check_alpha(name: str, layer: str, alpha: Tensor) -> None:
    """Refuse an alpha in the file that is no number, or far outside of what trainers write."""
    value = alpha.item() if alpha.numel() == 1 else None
    if not is_alpha(value):
        found = f"a tensor of {tuple(alpha.shape)}" if value is None else f"{value:g}"
        raise CorruptCheckpointError(
            f"The strength of {name} is not known: the alpha of layer {layer} is {found}, but it "
            f"must be {expected_alpha()}. Get the LoRA again."
        )


def idle_layers(tensors: Mapping[str, Tensor], layers: Iterable[str]) -> tuple[str, ...]:
    """Return the layers that stay as they are, since a matrix or the alpha is zero."""
    return tuple(layer for layer in layers if is_idle(tensors, layer))


def is_idle(tensors: Mapping[str, Tensor], layer: str) -> bool:
    """Whether a layer stays as it is; of other kinds than plain LoRA only alpha is asked."""
    alpha = part_of(tensors, layer, (ALPHA_NAME,))
    start = f"{NATIVE_PREFIX}{layer}."
    others = [key for key in tensors if key.startswith(start)] if alpha is not None else []
    bias = part_of(tensors, layer, (BIAS_PART,))
    has_more = any(part_of(tensors, layer, (part,)) is not None for part in MORE_PARTS)
    if has_more or (bias is not None and bias.any()):
        return False
    if alpha is not None and (not alpha.any() or len(others) == 1):
        return True
    pair = part_of(tensors, layer, UP_PARTS), part_of(tensors, layer, DOWN_PARTS)
    return any(one is not None and not one.any() for one in pair)
