"""A linear layer whose weight is stored in eight bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.attention import FusedLinear, FusedRows
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
        return self.eight_bit_product(hidden, self.values, self.scales, self.bias)

    def eight_bit_product(
        self, hidden: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Multiply (..., K) by numbers (R, K) with scales (R, 1) and add a bias: (..., R)."""
        tokens = hidden.flatten(0, -2) if hidden.dim() > 2 else hidden  # M K
        out = multiply(tokens, values, scales, self.kind).to(hidden.dtype)
        if bias is not None:
            out = out + bias.to(out.dtype)
        return out.view(*hidden.shape[:-1], len(values))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) that the stored numbers mean."""
        return dequantise_rows(self.values, self.scales, dtype)

    def fused(self, layers: tuple[QuantisedLinear, ...], heads: int) -> FusedQuantisedLinear:
        """Return one layer for to_q, to_k and to_v, which are of the kind of this one."""
        width = self.in_features
        plain = nn.Linear(width, width, device="meta")
        made = FusedQuantisedLinear(FusedLinear((plain,) * 3, heads), self.kind)
        made.take(layers)
        return made


class FusedQuantisedLinear(FusedRows, QuantisedLinear):
    """Queries, keys and values in eight bits.

    Each row has its own scale, so that the numbers are those of three layers quantised apart; see
    `QuantisedLinear.fused`.

    Args:
        layer: what it stands for.
        kind: number format of the weight.
    """

    TENSORS = ("values", "scales", "bias")

    def __init__(self, layer: FusedLinear, kind: Format) -> None:
        super().__init__(layer, kind)
        self.heads = layer.heads

    def product(self, tokens: Tensor, *tensors: Tensor) -> Tensor:
        """Multiply by numbers with scales and add a bias."""
        return self.eight_bit_product(tokens, *tensors)

    def single(self) -> QuantisedLinear:
        """Return a quantised layer without memory."""
        width = self.in_features
        return QuantisedLinear(nn.Linear(width, width, device="meta"), self.kind)


def quantised(layer: nn.Linear, kind: Format) -> QuantisedLinear:
    """Return what takes the place of a layer of a transformer."""
    if isinstance(layer, FusedLinear):
        return FusedQuantisedLinear(layer, kind)
    return QuantisedLinear(layer, kind)
