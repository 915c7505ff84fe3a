"""A linear layer whose weight is stored in eight bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .formats import Format, dequantise_rows, quantise_rows
from .matmul import multiply


class QuantisedLinear(nn.Module):
    """Takes the place of a linear layer; the bias stays as it is.

    Args:
        layer: what it stands for; its weight is (N, K).
        kind: number format of the weight.
        unpacks: multiply by the unpacked weight, in the type of the tokens, in place of an
            eight-bit product of quantised tokens. This saves memory and nothing else, and spares
            activations with large outliers.
    """

    weight: Tensor | None = None  # by this name, callers ask linear layers for their type
    values: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear, kind: Format, *, unpacks: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind, self.unpacks = kind, unpacks
        values, scales = quantise_rows(layer.weight.detach(), kind)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        bias: Any = layer.bias
        self.bias: nn.Parameter | None = bias
        self.train(layer.training)

    @property
    def quantised_as(self) -> str:
        """Name of the format."""
        return self.kind.name

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., K) -> (..., N), in the type of `hidden`."""
        if self.unpacks:
            return F.linear(hidden, self.unpacked(hidden.dtype), self.bias)
        tokens = hidden.flatten(0, -2) if hidden.dim() > 2 else hidden  # M K
        out = multiply(tokens, self.values, self.scales, self.kind).to(hidden.dtype)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.view(*hidden.shape[:-1], self.out_features)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) that the stored numbers mean."""
        return dequantise_rows(self.values, self.scales, dtype)

    def extra_repr(self) -> str:
        """Say what `print(model)` shows."""
        return f"{self.in_features}, {self.out_features}, {self.kind.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        """Move the stored numbers with the model, but never change their type.

        A model that is cast to another type casts its parameters; a cast of the numbers alone,
        without their scales, would change the weight.
        """
        before = {"values": self.values, "scales": self.scales}
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        for name, buffer in before.items():
            moved: Tensor = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self
