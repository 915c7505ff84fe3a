"""What blocks ask of layers in eight bits: tokens quantised once, and where they are made.

Layers that multiply in eight bits have methods of their own beside `forward` (see
`precision.linear.QuantisedLinear`); a layer without them is an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.choice import KernelSet
from ..kernels.rows import Rows, Sums

Tokens = Tensor | Rows
"""Tokens (..., D) as layers read them."""

Update = Tensor | Sums
"""What is added to tokens (..., D); sums of a layer in eight bits are scaled as they are added."""


def row_kind(layer: Any, tokens: Tokens, kernels: KernelSet) -> torch.dtype | None:
    """Return the type of eight-bit rows that kernels may make of tokens for a layer, or None."""
    asked: Any = getattr(layer, "row_kind", None)
    some = tokens.values if isinstance(tokens, Rows) else tokens
    return asked(some.device) if asked is not None and kernels.is_active(some) else None


def shared_rows(layers: tuple[nn.Module, ...], tokens: Tokens) -> Tokens:
    """Quantise tokens once for several layers that read them, where all of them would."""
    first: Any = layers[0]
    backends = {getattr(layer, "backend", None) for layer in layers}
    return tokens if None in backends or len(backends) > 1 else first.rows_of(tokens)


def update_of(layer: nn.Module, tokens: Tokens, kernels: KernelSet) -> Update:
    """Return a layer's result for a sum, not scaled yet where the sum's kernel does that."""
    asked: Any = getattr(layer, "sums_or_result", None)
    if asked is None or row_kind(layer, tokens, kernels) is None:
        return layer(tokens)
    return asked(tokens)


def gelu_rows(layer: Any, tokens: Tokens, kernels: KernelSet, reader: Any) -> Rows | None:
    """Return GELU of a layer's result as the next layer reads it, or None if that is no kernel's.

    Args:
        layer: whose result it is.
        tokens: that the layer reads.
        kernels: of the model.
        reader: the next layer.
    """
    kinds = [row_kind(one, tokens, kernels) for one in (layer, reader)]
    return layer.gelu_rows(tokens) if kinds[0] is not None and kinds[0] == kinds[1] else None
