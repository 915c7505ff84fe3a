"""Store the wide layers of a model in eight bits, in place."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InvalidInputError
from ..model.attention import FusedLinear
from ..model.lora import LoraLinear, modules_of
from ..model.lora_merge import MERGED
from .formats import FP8, Format, format_named
from .layers import is_target, quantised_name
from .linear import QuantisedLinear
from .matmul import has_product

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
        model: LatteT2V or Latte; changed in place.
        name: `fp8` (e4m3) or `int8`.
        device: where it will run; None for where its weights are.

    Returns:
        What was done; where the device has no product of such numbers, that is logged, once.

    Raises:
        InvalidInputError: for another format, or a model that is quantised, fused, or being
            trained with adapters; nothing is changed then.
    """
    return _replace(model, format_named(name), device, unpacks=False)


def quantize_text(encoder: nn.Module, name: str) -> Quantisation:
    """Store the layers of transformers' T5 encoder in eight bits; products stay as they are.

    T5's activations have outliers far above the rest, which eight bits would flatten, and a prompt
    is encoded once: so weights are unpacked when they are used, and memory is what this saves.

    Raises:
        InvalidInputError: as `quantize`.
    """
    return _replace(encoder, format_named(name), None, unpacks=True)


@torch.no_grad()
def _replace(
    model: nn.Module, kind: Format, device: torch.device | None, *, unpacks: bool
) -> Quantisation:
    layers = _targets(model)
    _check(model, layers, kind)
    device = device or next(iter(layers.values())).weight.device
    before = after = 0
    for name, layer in layers.items():
        _take_lora_for_good(layer)
        small = QuantisedLinear(layer, kind, unpacks=unpacks)
        before += layer.weight.numel() * layer.weight.element_size()
        after += sum(one.numel() * one.element_size() for one in (small.values, small.scales))
        model.set_submodule(name, small)
    is_native = not unpacks and has_product(kind, device)
    if not unpacks and not is_native:
        logger.warning(no_product(kind, device))
    return Quantisation(
        name=kind.name,
        num_layers=len(layers),
        bytes_before=before,
        bytes_after=after,
        is_native=is_native,
        sentence=f"{len(layers)} layers are stored as {kind.name}: {after / 1e6:.1f} MB in place "
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


def _targets(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: one
        for name, one in modules_of(model).items()
        if type(one) is nn.Linear and is_target(name, one.out_features, one.in_features)
    }


def _check(model: nn.Module, layers: dict[str, nn.Linear], kind: Format) -> None:
    """Refuse a model that cannot be quantised, before anything is changed."""
    for one in modules_of(model).values():
        found = quantised_name(one)
        if found:
            raise InvalidInputError(
                f"The model is stored as {found} already and cannot become {kind.name}. Load it "
                "again first."
            )
        if isinstance(one, LoraLinear):
            raise InvalidInputError(
                "A model with adapters in training cannot be quantised. Take them off with "
                "remove_lora, or merge them."
            )
        if isinstance(one, FusedLinear):
            raise InvalidInputError(
                "A model whose queries, keys and values are fused cannot be quantised. Take them "
                "apart with unfuse_qkv first."
            )
    if not layers:
        raise InvalidInputError(
            f"There is nothing to store as {kind.name}: no attention projection or feed-forward "
            "layer has rows and columns in multiples of 16. Leave the precision out."
        )


def _take_lora_for_good(layer: nn.Linear) -> None:
    """Forget the original weight of a layer that LoRAs are merged into."""
    if hasattr(layer, MERGED):
        delattr(layer, MERGED)
