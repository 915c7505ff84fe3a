"""What a card does with tensors of the host, and which operators make the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ATEN = torch.ops.aten
TAKES_HOST_SCALARS = {
    "where",
    "fill_",
    "masked_fill",
    "masked_fill_",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "index_fill",
    "index_fill_",
    "masked_scatter",
}
"""Operators beside the elementwise ones that take a number of the host as a tensor."""

WAITS = {"nonzero", "masked_select", "_local_scalar_dense", "equal", "is_nonzero", "item"}
"""Operators that need a value on the host, beside those that torch has marked so."""


def takes_host_scalars(func: Any) -> bool:
    """Return whether an operator takes tensors of the host without dimensions."""
    name: str = func._overloadpacket.__name__
    is_pointwise = torch.Tag.pointwise in func.tags or name.startswith("_foreach_")
    return is_pointwise or name in TAKES_HOST_SCALARS


def reads_back(func: Any) -> bool:
    """Return whether the host waits for a value, or for the size of a result."""
    name: str = func._overloadpacket.__name__
    marks = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    if name == "repeat_interleave":
        return False
    return name in WAITS or any(mark in func.tags for mark in marks)


def nothing(source: Any) -> Any:
    """Return a number of a type where there is no data to read: zero, and True for a truth."""
    if source.dtype == torch.bool:
        return True
    return 0.0 if source.dtype.is_floating_point else 0


VALUES: dict[Any, Callable[..., Any]] = {
    ATEN._local_scalar_dense.default: nothing,
    ATEN.equal.default: lambda *_: True,
    ATEN.is_nonzero.default: lambda *_: True,
}
"""What the host reads from tensors without data."""
