"""Store the wide layers of a model in fewer bits, in place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..errors import InvalidInputError
from ..model.attention import FusedLinear
from ..model.lora import LoraLinear, modules_of
from ..model.lora_merge import forget_merged
from ..model.released_weights import released_names
from ..text.four_bits import BYTES_PER_NUMBER, FourBitLinear
from ..text.stored_linear import StoredLinear
from .formats import FP8, Format, format_named
from .layers import is_target, quantised_name
from .linear import QuantisedLinear, quantised
from .matmul import has_product
from .names import INT4_NAME, TEXT_PRECISIONS

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantisation:
    """What was done to a model.

    Args:
        name: of the format.
        num_layers: how many layers are stored in it.
        bytes_before, bytes_after: of the weights of those layers, scales included.
        is_native: whether the device multiplies such numbers; if not, only memory is saved.
        sentence: the same for a person.
    """

    name: str
    num_layers: int
    bytes_before: int
    bytes_after: int
    is_native: bool
    sentence: str


def quantize(model: nn.Module, name: str, *, device: torch.device | None = None) -> Quantisation:
    """Give a transformer eight-bit attention projections and feed-forward layers.

    Weights have a scale for each row, activations one for each token and call. LoRAs have to be
    merged before; they become part of the quantised weights. There is no way back: load the model
    again for its own weights.

    Args:
        model: LatteT2V or Latte, fused or not; changed in place.
        name: `fp8` (e4m3) or `int8`.
        device: where it will run; None for where its weights are.

    Returns:
        What was done; where the device has no product of such numbers, that is logged, once.

    Raises:
        InvalidInputError: for another format, or a model that is quantised or being trained with
            adapters; nothing is changed then.
    """
    kind = format_named(name)
    layers = _targets(model, name)
    device = device or layers[next(iter(layers))].weight.device
    is_native = has_product(kind, device)
    if not is_native:
        logger.warning(no_product(kind, device))
    return _replace(model, layers, partial(quantised, kind=kind), name, is_native=is_native)


def quantize_text(encoder: nn.Module, name: str) -> Quantisation:
    """Store the layers of transformers' T5 encoder in fewer bits; products stay as they are.

    T5's activations have outliers far above the rest, which few bits would flatten, and a prompt
    is encoded once: so weights are unpacked when they are used, and memory is what this saves.

    Args:
        encoder: changed in place, layer by layer.
        name: `fp8`, `int8` or `int4`, of which the last has a scale for each group of a row.

    Raises:
        InvalidInputError: as `quantize`.
    """
    make = maker_of_text(name)
    return _replace(encoder, _targets(encoder, name), make, name, is_native=False)


def maker_of_text(name: str) -> Callable[[nn.Linear], StoredLinear]:
    """Return what makes the layers of a text encoder in a format.

    Raises:
        InvalidInputError: if there is no format of that name.
    """
    if text_format(name) == INT4_NAME:
        return FourBitLinear.of
    return partial(QuantisedLinear, kind=format_named(name), unpacks=True)


def text_format(name: str) -> str:
    """Return the name of a format for text encoders.

    Raises:
        InvalidInputError: if there is none of that name.
    """
    if name not in TEXT_PRECISIONS:
        raise InvalidInputError(
            f"{name!r} is no format of a text encoder; choose one of {', '.join(TEXT_PRECISIONS)}."
        )
    return name


def text_bytes(name: str) -> float:
    """Return the bytes that a number of a text encoder's layer takes in a format."""
    return BYTES_PER_NUMBER if name == INT4_NAME else 1.0


@torch.no_grad()
def _replace(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    make: Callable[[nn.Linear], StoredLinear],
    name: str,
    *,
    is_native: bool,
) -> Quantisation:
    """Exchange layers one by one; each is given up at once, so that no second copy is made."""
    before = after = 0
    num_layers = len(layers)
    while layers:
        place = next(iter(layers))
        layer = layers.pop(place)
        for name in released_names(place, layer):
            forget_merged(model, name)  # LoRAs in it are there for good
        small = make(layer)
        before += layer.weight.numel() * layer.weight.element_size()
        after += sum(one.numel() * one.element_size() for one in (small.values, small.scales))
        model.set_submodule(place, small)
    return Quantisation(
        name=name,
        num_layers=num_layers,
        bytes_before=before,
        bytes_after=after,
        is_native=is_native,
        sentence=f"{num_layers} layers are stored as {name}: {after / 1e6:.1f} MB in place "
        f"of {before / 1e6:.1f} MB.",
    )


def no_product(kind: Format, device: torch.device) -> str:
    """Say that a device cannot multiply numbers of a kind, and what that means."""
    needed = "8.9 (RTX 40 series, H100)" if kind is FP8 else "7.5 (RTX 20 series)"
    other = ' Choose "int8", which this device multiplies, or none.' if kind is FP8 else ""
    if kind is FP8 and not has_product(format_named("int8"), device):
        other = " Leave the precision out for speed."
    return (
        f"{kind.name} saves memory here, but no time: this device ({device.type}) has no "
        f"{kind.name} product, which takes an NVIDIA card of compute capability {needed} or later, "
        f"so it is emulated.{other}"
    )


def _targets(model: nn.Module, name: str) -> dict[str, nn.Linear]:
    """Return the layers to store, by name; refuse a model before anything is changed."""
    layers = {
        place: one
        for place, one in modules_of(model).items()
        if isinstance(one, nn.Linear)
        and type(one) in (nn.Linear, FusedLinear)
        and is_target(place, one.out_features, one.in_features)
    }
    _check(model, layers, name)
    return layers


def _check(model: nn.Module, layers: dict[str, nn.Linear], name: str) -> None:
    """Refuse a model that cannot be quantised."""
    for one in modules_of(model).values():
        found = quantised_name(one)
        if found:
            raise InvalidInputError(
                f"The model is stored as {found} already and cannot become {name}. Load it "
                "again first."
            )
        if isinstance(one, LoraLinear):
            raise InvalidInputError(
                "A model with adapters in training cannot be quantised. Take them off with "
                "remove_lora, or merge them."
            )
    if not layers:
        raise InvalidInputError(
            f"There is nothing to store as {name}: no attention projection or feed-forward "
            "layer has rows and columns in multiples of 16. Leave the precision out."
        )
