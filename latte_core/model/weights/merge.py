"""Merge LoRAs into a model's weights for sampling, so that each can be taken out again.

A changed model keeps the original weights, in main memory, and what is merged into each of them:
LoRAs can be removed in any order, and the last removal brings back every bit. Layers are known by
their released names, so that a model may be fused or taken apart with its LoRAs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ...checks import is_number
from ...errors import IncompatibleInputsError, InvalidInputError
from .alpha import is_alpha
from .lora import (
    ALPHA_NAME,
    DOWN_NAME,
    NATIVE_PREFIX,
    UP_NAME,
    LoraLinear,
    modules_of,
)
from .released import ReleasedWeight, released_biases, released_weights

# Spellings of the two matrices; the first is ours.
UP_PARTS = (UP_NAME, "lora_up.weight", "lora.up.weight")
DOWN_PARTS = (DOWN_NAME, "lora_down.weight", "lora.down.weight")
BIAS_PART = "diff_b"  # what extracted LoRAs add to a bias
BIAS = ".bias"  # behind the name of a layer: its bias, where layers are listed
MERGED = "merged_loras"  # attribute of a changed model: a `MergedWeight` for each layer's name
QUANTISED = "quantised_as"  # attribute of a layer in eight bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """What one LoRA adds to one weight: factor * up @ down."""

    up: Tensor
    down: Tensor
    factor: float

    def added_to(self, weight: Tensor) -> Tensor:
        """Return a weight with it, in the weight's type and on its device."""
        up, down = (one.to(weight).flatten(1) for one in (self.up, self.down))
        return weight + (self.factor * (up @ down)).reshape(weight.shape)


@dataclass(slots=True)
class MergedWeight:
    """A layer's original weight and what is merged into it, in order."""

    original: Tensor
    products: dict[LoraPatch, Product] = field(default_factory=dict["LoraPatch", Product])


class LoraPatch:
    """A LoRA that is merged into a model; made by `merge_lora`.

    Args:
        model: that it changes.
        layers: the names of the layers; with `.bias` behind it, the bias of one.
        strength: how strongly.

    `unchanged` has the names of those layers whose weights are, bit for bit, what they were.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str], strength: float) -> None:
        self.layers = tuple(layers)
        self.strength = strength
        self.unchanged: tuple[str, ...] = ()
        self._model: nn.Module | None = model

    @property
    def num_layers(self) -> int:
        """How many layers it names, a weight and its bias counted as one."""
        return len({name.removesuffix(BIAS) for name in self.layers})

    @property
    def unchanged_layers(self) -> frozenset[str]:
        """The names of the layers that stayed as they were, weight and bias."""
        changed = {one.removesuffix(BIAS) for one in self.layers if one not in self.unchanged}
        return frozenset(one.removesuffix(BIAS) for one in self.layers) - changed

    @property
    def is_merged(self) -> bool:
        """Whether it has not been removed yet."""
        return self._model is not None

    @torch.no_grad()
    def remove(self) -> None:
        """Take it out. Without other LoRAs every weight is, bit for bit, what it was before.

        Raises:
            InvalidInputError: if the model was quantised meanwhile; nothing is changed then.
        """
        if self._model is None:
            return
        merged = merged_into(self._model)
        if not all(name in merged for name in self.layers):
            raise InvalidInputError(
                "The LoRA cannot be taken out: the model was quantised with it. Load the model "
                "again."
            )
        weights = mergeable(self._model)
        for name in self.layers:
            del merged[name].products[self]
            write(weights[name], merged[name])
            if not merged[name].products:
                forget_merged(self._model, name)
        self._model = None


@torch.no_grad()
def merge_lora(model: nn.Module, tensors: Mapping[str, Tensor], strength: float = 1.0) -> LoraPatch:
    """Add strength * (alpha / rank) * up @ down to the weights that a LoRA names.

    Sums are made in float32 and rounded once to the type of the weights, however many LoRAs there
    are. A layer without alpha counts as one whose alpha is its rank, as in ComfyUI.

    Args:
        model: changed in place; its queries, keys and values may be fused.
        tensors: with native names (`diffusion_model.<layer>.lora_A.weight` ...), see `native_lora`.
        strength: 0 changes nothing, a negative number turns the LoRA round.

    Raises:
        InvalidInputError: for a strength that is no finite number, or a model that has adapters
            or is quantised.
        IncompatibleInputsError: if the LoRA is of a kind that only ComfyUI can apply, does not
            fit the model, or makes weights that are not finite. Nothing is changed then.
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
    refuse_quantised(modules.values())
    weights = mergeable(model)
    for name, product in products.items():
        check_fits(weights, name, product)
    patch, merged = LoraPatch(model, products, strength), merged_into(model)
    if products:
        setattr(model, MERGED, merged)
    unchanged: list[str] = []
    for name, product in products.items():
        memory = weights[name].memory
        before = memory.clone()
        if name not in merged:
            merged[name] = MergedWeight(weights[name].read().to("cpu", copy=True))
        merged[name].products[patch] = product
        write(weights[name], merged[name])
        if torch.equal(memory, before):
            unchanged.append(name)
    patch.unchanged = tuple(unchanged)
    refuse_overflow(patch, weights)
    return patch


def refuse_overflow(patch: LoraPatch, weights: Mapping[str, ReleasedWeight]) -> None:
    """Take a LoRA out again if it makes weights larger than their type can hold.

    Raises:
        IncompatibleInputsError: in how many layers.
    """
    changed = [name for name in patch.layers if name not in patch.unchanged]
    broken = [name for name in changed if not weights[name].memory.float().isfinite().all()]
    if not broken:
        return
    dtype = str(weights[broken[0]].memory.dtype).removeprefix("torch.")
    patch.remove()
    raise IncompatibleInputsError(
        f"The LoRA was not merged: at strength {patch.strength:g} weights of {len(broken)} of its "
        f"{len(patch.layers)} layers, {broken[0]} first, become larger than {dtype} can hold. "
        "Use a smaller strength."
    )


def mergeable(model: nn.Module) -> dict[str, ReleasedWeight]:
    """Return the weights of a model by the names of their layers, and the biases."""
    biases = {name + BIAS: one for name, one in released_biases(model).items()}
    return {**released_weights(model), **biases}


def merged_into(model: nn.Module) -> dict[str, MergedWeight]:
    """Return what is merged into a model, by the released name of each layer."""
    return cast("dict[str, MergedWeight]", getattr(model, MERGED, {}))


def forget_merged(model: nn.Module, name: str) -> None:
    """Forget the original weight of a layer, and what is merged into it."""
    merged = merged_into(model)
    merged.pop(name, None)
    if not merged and hasattr(model, MERGED):
        delattr(model, MERGED)


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
    found: dict[str, Product] = {}
    for layer, parts in layers.items():
        bias = parts.pop(BIAS_PART, None)
        if bias is not None:
            found[layer + BIAS] = Product(
                up=bias.reshape(-1, 1), down=torch.ones(1, 1), factor=strength
            )
        if parts or bias is None:
            found[layer] = product_of(layer, parts, strength)
    return found


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
    if alpha is not None and not is_alpha(alpha.item()):
        raise IncompatibleInputsError(
            f"The LoRA has an alpha of {alpha.item():g} for layer {layer}, which is no strength "
            "that a layer can have. Get the LoRA again."
        )
    if alpha is not None and down.dim() and down.shape[0]:
        factor *= float(alpha) / down.shape[0]
    return Product(up=up, down=down, factor=factor)


def only(parts: Mapping[str, Tensor], names: Iterable[str]) -> Tensor | None:
    """Return the part that has one of several names."""
    return next((parts[name] for name in names if name in parts), None)


def check_fits(weights: Mapping[str, ReleasedWeight], name: str, product: Product) -> None:
    """Refuse a product that fits no layer.

    Raises:
        IncompatibleInputsError: if there is none of that name, or it has another size.
    """
    weight = weights.get(name)
    if weight is None:
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
            f"The LoRA does not fit {name}: its matrices are {tuple(up.shape)} and "
            f"{tuple(down.shape)}, the layer's weight is {tuple(weight.shape)}. It was made for a "
            "model of another width."
        )


def write(weight: ReleasedWeight, merged: MergedWeight) -> None:
    """Give a layer its original weight plus everything that is merged into it."""
    total = merged.original
    if merged.products:
        dtype = torch.promote_types(weight.memory.dtype, torch.float32)
        total = total.to(weight.memory.device, dtype)
    for product in merged.products.values():
        total = product.added_to(total)
    weight.write(total)
