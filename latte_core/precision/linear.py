"""A linear layer whose weight is stored in eight bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.choice import MAX_WIDTH
from ..kernels.eight_bit import TOKEN_ROWS
from ..kernels.rows import Rows, Sums
from ..model.attention import FusedLinear, FusedRows
from ..text.stored_linear import StoredLinear
from .formats import Format, dequantise_rows, quantise_rows
from .matmul import EMULATION, UNPACKING, Backend, multiply, rows_of, sums
from .names import INT_MM, UNPACKED


class QuantisedLinear(StoredLinear):
    """Takes the place of a linear layer; the bias stays as it is.

    Args:
        layer: what it stands for; its weight is (N, K).
        kind: number format of the weight.
        backend: how it multiplies; see `trial.find_backend`. `UNPACKING` saves memory and nothing
            else, and spares activations with large outliers.
        says_dtype: callers may ask it for the type of its weight, as transformers' T5 does.
    """

    def __init__(
        self,
        layer: nn.Linear,
        kind: Format,
        *,
        backend: Backend = EMULATION,
        says_dtype: bool = False,
    ) -> None:
        bias: Any = layer.bias
        values, scales = quantise_rows(layer.weight.detach(), kind)
        size = (layer.in_features, layer.out_features)
        super().__init__(values, scales, size=size, bias=bias, name=kind.name, is_saved=True)
        self.kind, self.backend = kind, backend
        if says_dtype:
            self.work_in(layer.weight.dtype)
        self.train(layer.training)

    def forward(self, hidden: Tensor | Rows) -> Tensor:
        """(..., K) -> (..., N), in the type of `hidden`."""
        return self.apply_rows(hidden, self.values, self.scales, self.bias)

    def apply_rows(
        self, hidden: Tensor | Rows, values: Tensor, scales: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Multiply (..., K) by numbers (R, K) with scales (R, 1) and add a bias: (..., R)."""
        rows = self.rows_of(hidden)
        if isinstance(rows, Tensor):
            return F.linear(rows, dequantise_rows(values, scales, rows.dtype), bias)
        made = multiply(rows, values, scales, bias, self.backend)
        return made.view(*hidden.shape[:-1], len(values))

    def rows_of(self, hidden: Tensor | Rows) -> Tensor | Rows:
        """Return tokens as this layer multiplies them, quantised or as they are."""
        if isinstance(hidden, Rows) or not self.multiplies_rows(hidden.device):
            return hidden
        return rows_of(hidden, self.kind, self.backend)

    def multiplies_rows(self, device: torch.device) -> bool:
        """Whether tokens of a device are multiplied in eight bits."""
        return self.backend.name != UNPACKED and self.backend.serves(device)

    def row_kind(self, device: torch.device) -> torch.dtype | None:
        """Return the type of rows that kernels may hand to it; None if it wants tokens."""
        is_fit = self.backend.with_kernels and self.in_features <= MAX_WIDTH
        return self.kind.dtype if is_fit and self.multiplies_rows(device) else None

    def sums_or_result(self, hidden: Tensor | Rows) -> Tensor | Sums:
        """Return the result, not scaled yet if the product leaves that to others."""
        if not self.backend.with_kernels or self.backend.name != INT_MM:
            return self(hidden)
        rows = self.rows_of(hidden)
        if isinstance(rows, Tensor):
            return self(rows)
        return sums(rows, self.values, self.scales, self.bias)

    def gelu_rows(self, hidden: Tensor | Rows) -> Rows:
        """Return GELU, in its tanh form, of the result, in eight bits; where there are kernels."""
        made = self.sums_or_result(hidden)
        if isinstance(made, Sums):
            given = made.total, made.row_scales, made.scales, made.bias
        else:
            given = made.flatten(0, -2), None, None, None
        values, scales = TOKEN_ROWS(*given, True, self.kind.dtype)
        return Rows(values, scales, made.shape, made.dtype)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (N, K) that the stored numbers mean."""
        return dequantise_rows(self.values, self.scales, dtype)

    def fused(self, layers: tuple[QuantisedLinear, ...], heads: int) -> FusedQuantisedLinear:
        """Return one layer for to_q, to_k and to_v, which are of the kind of this one."""
        width = self.in_features
        plain = nn.Linear(width, width, device="meta")
        made = FusedQuantisedLinear(
            FusedLinear((plain,) * 3, heads), self.kind, backend=self.backend
        )
        made.take(layers)
        return made


class FusedQuantisedLinear(FusedRows, QuantisedLinear):
    """Queries, keys and values in eight bits.

    Each row has its own scale, so that the numbers are those of three layers quantised apart; see
    `QuantisedLinear.fused`.

    Args:
        layer: what it stands for.
        kind: number format of the weight.
        backend: how it multiplies.
    """

    TENSORS = ("values", "scales", "bias")

    def __init__(self, layer: FusedLinear, kind: Format, *, backend: Backend = EMULATION) -> None:
        super().__init__(layer, kind, backend=backend)
        self.heads = layer.heads

    def product(self, tokens: Tensor | Rows, *tensors: Tensor) -> Tensor:
        """Multiply by numbers with scales and add a bias."""
        return self.apply_rows(tokens, *tensors)

    def single(self) -> QuantisedLinear:
        """Return a quantised layer without memory."""
        width = self.in_features
        plain = nn.Linear(width, width, device="meta")
        return QuantisedLinear(plain, self.kind, backend=self.backend)


def quantised(layer: nn.Linear, kind: Format, *, backend: Backend = EMULATION) -> QuantisedLinear:
    """Return what takes the place of a layer of a transformer."""
    if isinstance(layer, FusedLinear):
        return FusedQuantisedLinear(layer, kind, backend=backend)
    return QuantisedLinear(layer, kind, backend=backend)


def stored(layer: nn.Linear, kind: Format) -> QuantisedLinear:
    """Return what takes the place of a layer of a text encoder."""
    return QuantisedLinear(layer, kind, backend=UNPACKING, says_dtype=True)
