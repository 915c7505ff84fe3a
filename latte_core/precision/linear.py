"""A linear layer whose weight is stored in eight bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..text.stored_linear import StoredLinear
from .formats import Format, dequantise_rows, quantise_rows
from .matmul import multiply


class QuantisedLinear(StoredLinear):
    """Takes the place of a linear layer; the bias stays as it is.

    Args:
        layer: what it stands for; its weight is (N, K).
        kind: number format of the weight.
        unpacks: multiply by the unpacked weight, in the type of the tokens, in place of an
            eight-bit product of quantised tokens. This saves memory and nothing else, and spares
            activations with large outliers.
    """

    def __init__(self, layer: nn.Linear, kind: Format, *, unpacks: bool = False) -> None:
        bias: Any = layer.bias
        values, scales = quantise_rows(layer.weight.detach(), kind)
        size = (layer.in_features, layer.out_features)
        super().__init__(values, scales, size=size, bias=bias, name=kind.name, is_saved=True)
        self.kind, self.unpacks = kind, unpacks
        if unpacks:
            self.work_in(layer.weight.dtype)
        self.train(layer.training)

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
