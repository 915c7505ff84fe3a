"""Several prompts in one pass over T5's layers, each with the bits that it gets alone.

A batch of prompts has other bits than each of them, since products of another size add in another
order. Here every layer of a batch is called for one row after the other: it is read, or copied to a
device, once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def row_by_row(module: Any) -> Generator[None]:
    """Have the blocks of transformers' T5 encoder, and its last norm, take rows one by one.

    What is left works on each number, or each word, for itself. Where a row's features are made
    from other tensors than the hidden states (mask and places), those are cut as they are; one of
    another length than the batch belongs to all rows.
    """
    encoder = module.encoder
    parts: list[nn.Module] = [*encoder.block, encoder.final_layer_norm]
    own = {part: part.__dict__.get("forward") for part in parts}
    try:
        for part in parts:
            part.forward = _by_row(part.forward)
        yield
    finally:
        for part, forward in own.items():
            part.__dict__.pop("forward", None)  # the class's own shows again
            if forward is not None:
                part.forward = forward


def _by_row(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that makes one call for each row of the hidden states, its first argument."""

    def call(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = [
            forward(
                hidden[row : row + 1],
                *(_row_of(one, row, len(hidden)) for one in args),
                **{name: _row_of(one, row, len(hidden)) for name, one in kwargs.items()},
            )
            for row in range(len(hidden))
        ]
        return _joined(made)

    return call


def _row_of(value: Any, row: int, rows: int) -> Any:
    is_cut = isinstance(value, Tensor) and value.ndim > 1 and len(value) == rows
    return value[row : row + 1] if is_cut else value


def _joined(made: list[Any]) -> Any:
    """Put the results of all rows together, tuples entry by entry."""
    first = made[0]
    if isinstance(first, Tensor):
        return torch.cat(made)
    if isinstance(first, tuple):
        return tuple(_joined(list(entries)) for entries in zip(*made, strict=True))
    return first  # None, where a layer has nothing to say
