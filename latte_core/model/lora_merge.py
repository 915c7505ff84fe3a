"""Merge LoRAs into a model's weights for sampling, so that each can be taken out again.

A changed layer keeps its original weight, in main memory, and the list of what is merged into it:
LoRAs can be removed in any order, and the last removal brings back every bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import IncompatibleInputsError, InvalidInputError
from .attention import FusedLinear
from .lora import (
    ALPHA_NAME,
    DOWN_NAME,
    NATIVE_PREFIX,
    UP_NAME,
    LoraLinear,
    is_number,
    modules_of,
)

# Spellings of the two matrices; the first is ours.
UP_PARTS = (UP_NAME, "lora_up.weight", "lora.up.weight")
DOWN_PARTS = (DOWN_NAME, "lora_down.weight", "lora.down.weight")
MERGED = "merged_loras"  # attribute of a changed layer
QUANTISED = "quantised_as"  # attribute of a layer in eight bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """What one LoRA adds to one weight: factor * up @ down."""

    up: Tensor
    down: Tensor
    factor: float

    def as_weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Return it in the shape of a weight and on its device."""
        up, down = (one.to(weight.device, dtype).flatten(1) for one in (self.up, self.down))
        return (self.factor * (up @ down)).reshape(weight.shape)


@dataclass(slots=True)
class MergedWeight:
    """A layer's original weight and what is merged into it, in order."""

    original: Tensor
    products: dict[LoraPatch, Product] = field(default_factory=dict["LoraPatch", Product])


class LoraPatch:
    """A LoRA that is merged into a model; made by `merge_lora`.

    Args:
        layers: the layers it changes, by name.
        strength: how strongly.
    """

    def __init__(self, layers: Mapping[str, nn.Module], strength: float) -> None:
        self.layers = tuple(layers)
        self.strength = strength
        self._modules = tuple(layers.values())

    @property
    def is_merged(self) -> bool:
        """Whether it has not been removed yet."""
        return bool(self._modules)

    @torch.no_grad()
    def remove(self) -> None:
        """Take it out. Without other LoRAs every weight is, bit for bit, what it was before.

        Raises:
            InvalidInputError: if the model was quantised meanwhile.
        """
        modules, self._modules = self._modules, ()
        for module in modules:
            merged: MergedWeight | None = getattr(module, MERGED, None)
            if merged is None:
                raise InvalidInputError(
                    "The LoRA cannot be taken out: the model was quantised with it. Load the model "
                    "again."
                )
            del merged.products[self]
            write(module, merged)
            if not merged.products:
                delattr(module, MERGED)


@torch.no_grad()
def merge_lora(model: nn.Module, tensors: Mapping[str, Tensor], strength: float = 1.0) -> LoraPatch:
    """Add strength * (alpha / rank) * up @ down to the weights that a LoRA names.

    Sums are made in float32 and rounded once to the type of the weights, however many LoRAs there
    are. A layer without alpha counts as one whose alpha is its rank, as in ComfyUI.

    Args:
        model: changed in place.
        tensors: with native names (`diffusion_model.<layer>.lora_A.weight` ...), see `native_lora`.
        strength: 0 changes nothing, a negative number turns the LoRA round.

    Raises:
        InvalidInputError: for a strength that is no finite number, or a model that has adapters,
            is fused or is quantised.
        IncompatibleInputsError: if the LoRA is of a kind that only ComfyUI can apply, or does not
            fit the model. Nothing is changed then.
    """
    if not is_number(strength) or not math.isfinite(strength):
        raise InvalidInputError(f"The strength of a LoRA is {strength!r}; it must be a number.")
    products = products_in(tensors, strength)
    modules = modules_of(model)
    if any(isinstance(one, LoraLinear) for one in modules.values()):
        raise InvalidInputError(
            "A LoRA cannot be merged into a model while adapters are trained on it. Take them off "
            "with remove_lora first."
        )
    if any(isinstance(one, FusedLinear) for one in modules.values()):
        raise InvalidInputError(
            "A LoRA cannot be merged into a model whose queries, keys and values are fused. Take "
            "them apart with unfuse_qkv first."
        )
    refuse_quantised(modules.values())
    layers = {name: layer_of(modules, name, product) for name, product in products.items()}
    patch = LoraPatch(layers, strength)
    for name, module in layers.items():
        merged: MergedWeight | None = getattr(module, MERGED, None)
        if merged is None:
            merged = MergedWeight(weight_of(module).detach().to("cpu", copy=True))
            setattr(module, MERGED, merged)
        merged.products[patch] = products[name]
        write(module, merged)
    return patch


def refuse_quantised(modules: Iterable[nn.Module]) -> None:
    """Refuse to merge into weights that are rounded to eight bits.

    Raises:
        InvalidInputError: saying what to do first.
    """
    if any(getattr(one, QUANTISED, None) for one in modules):
        raise InvalidInputError(
            "A LoRA cannot be merged into a model that is stored in eight bits. Load the model "
            "again, merge the LoRA, then quantise it."
        )


def products_in(tensors: Mapping[str, Tensor], strength: float) -> dict[str, Product]:
    """Return what a LoRA adds to each layer, by the layer's name."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, part = split_part(name.removeprefix(NATIVE_PREFIX))
        layers.setdefault(layer, {})[part] = value
    return {layer: product_of(layer, parts, strength) for layer, parts in layers.items()}


def split_part(name: str) -> tuple[str, str]:
    """Split a name without its prefix into layer and part."""
    for part in (*UP_PARTS, *DOWN_PARTS, ALPHA_NAME):
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    layer, _, part = name.rpartition(".")
    return layer, part


def product_of(layer: str, parts: Mapping[str, Tensor], strength: float) -> Product:
    """Return what a layer's parts mean together."""
    up, down, alpha = only(parts, UP_PARTS), only(parts, DOWN_PARTS), parts.get(ALPHA_NAME)
    is_plain = len(parts) == 2 + (alpha is not None) and (alpha is None or alpha.numel() == 1)
    if up is None or down is None or not is_plain:
        raise IncompatibleInputsError(
            f"The LoRA changes layer {layer} by {', '.join(parts)}, but here only plain LoRA can "
            "be used: two matrices and their alpha. Use the file in ComfyUI, which knows DoRA, "
            "LoHa and LoKr too."
        )
    factor = strength
    if alpha is not None and down.dim() and down.shape[0]:
        factor *= float(alpha) / down.shape[0]
    return Product(up=up, down=down, factor=factor)


def only(parts: Mapping[str, Tensor], names: Iterable[str]) -> Tensor | None:
    """Return the part that has one of several names."""
    return next((parts[name] for name in names if name in parts), None)


def layer_of(modules: Mapping[str, nn.Module], name: str, product: Product) -> nn.Module:
    """Return the layer that a product fits.

    Raises:
        IncompatibleInputsError: if there is none, or it has another size.
    """
    module = modules.get(name)
    weight: Any = getattr(module, "weight", None)
    if module is None or not isinstance(weight, Tensor):
        raise IncompatibleInputsError(
            f"The LoRA changes layer {name}, which this model does not have. It was made for "
            "another model."
        )
    up, down = product.up, product.down
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    rank = down.shape[0] if down.dim() else 0
    sizes = (up.shape[0] if up.dim() else 0, math.prod(up.shape[1:]), math.prod(down.shape[1:]))
    if not rank or sizes != (rows, rank, columns):
        raise IncompatibleInputsError(
            f"The LoRA does not fit layer {name}: its matrices are {tuple(up.shape)} and "
            f"{tuple(down.shape)}, the layer's weight is {tuple(weight.shape)}. It was made for a "
            "model of another width."
        )
    return module


def weight_of(module: nn.Module) -> Tensor:
    """Return a layer's weight."""
    weight: Any = module.weight
    return weight


def write(module: nn.Module, merged: MergedWeight) -> None:
    """Give a layer its original weight plus everything that is merged into it."""
    weight = weight_of(module)
    if not merged.products:
        weight.copy_(merged.original)
        return
    dtype = torch.promote_types(weight.dtype, torch.float32)
    total = merged.original.to(weight.device, dtype)
    for product in merged.products.values():
        total = total + product.as_weight(weight, dtype)
    weight.copy_(total)
