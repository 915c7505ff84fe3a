"""The weights of a model by the released names of their layers, fused or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import FusedLinear
from .lora import modules_of

FUSED_NAME = "to_qkv"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedWeight:
    """The weight of one released layer.

    Args:
        memory: what is stored; of a layer that is fused with others its own part, a view.
        shape: as released.
    """

    memory: Tensor
    shape: torch.Size

    def read(self) -> Tensor:
        """Return it in its released shape; it may share memory with the model."""
        return self.memory.reshape(self.shape)

    def write(self, weight: Tensor) -> None:
        """Store other numbers, given in the released shape."""
        self.memory.copy_(weight.view(self.memory.shape))


def released_weights(model: nn.Module) -> dict[str, ReleasedWeight]:
    """Return the weight of every layer that has one, by the layer's released name.

    They are good until the model is moved, cast, fused or taken apart.
    """
    return released_tensors(model, "weight")


def released_biases(model: nn.Module) -> dict[str, ReleasedWeight]:
    """Return the bias of every layer that has one, likewise."""
    return released_tensors(model, "bias")


def released_tensors(model: nn.Module, kind: str) -> dict[str, ReleasedWeight]:
    """Return the weights or the biases of all layers, by the layers' released names."""
    found: dict[str, ReleasedWeight] = {}
    for place, module in modules_of(model).items():
        tensor: Any = getattr(module, kind, None)
        if not isinstance(tensor, Tensor):
            continue
        parts, shape = [tensor.detach()], tensor.shape
        if isinstance(module, FusedLinear):
            parts = module.parts(parts[0])
            shape = torch.Size((module.in_features,) * tensor.dim())
        for name, part in zip(released_names(place, module), parts, strict=True):
            found[name] = ReleasedWeight(memory=part, shape=shape)
    return found


def released_names(place: str, layer: nn.Module) -> tuple[str, ...]:
    """Return the released names of what one layer computes, given its name in the model."""
    if isinstance(layer, FusedLinear):
        start = place.removesuffix(FUSED_NAME)
        return tuple(f"{start}{name}" for name in layer.NAMES)
    return (place,)
