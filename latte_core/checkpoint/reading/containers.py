"""Find the weights inside what a training run saved (docs/model.md 9.3, 9.4)."""

from __future__ import annotations

import logging
from typing import cast

from .outline import TensorOutline
from .records import MAX_TENSORS, damaged, shown

log = logging.getLogger("latte")

CONTAINERS = ("ema", "model", "state_dict", "module")
MAX_DEPTH = 4


def choose_container(name: str, tree: object) -> tuple[tuple[str, ...], dict[str, TensorOutline]]:
    """Return the keys that lead to the weights in a pickle's outline, and the weights.

    "ema" is preferred to "model", that to "state_dict" and "module"; a table with a single entry
    that is a table is entered too; else the table itself holds the weights.

    Raises:
        CorruptCheckpointError: if there is no tensor, naming the keys that are there.
    """
    path: tuple[str, ...] = ()
    table = as_table(tree)
    while table is not None and len(path) < MAX_DEPTH:
        key = next_key(table)
        if key is None:
            break
        path = (*path, key)
        table = as_table(table[key])
    weights = tensors_of(table or {})
    if not weights:
        keys = ", ".join(shown(str(key)) for key in list(as_table(tree) or {})[:5]) or "nothing"
        raise damaged(name, f"it holds no tensors, only {keys}")
    if len(weights) > MAX_TENSORS:
        raise damaged(name, f"it lists {len(weights)} tensors, the limit is {MAX_TENSORS}")
    return path, weights


def as_table(value: object) -> dict[object, object] | None:
    """Return `value` if it is a dict."""
    return cast("dict[object, object]", value) if isinstance(value, dict) else None


def next_key(table: dict[object, object]) -> str | None:
    """Return the key under which the weights lie, or None if `table` is already the weights."""
    for key in CONTAINERS:
        if has_tensors(table.get(key)):
            return key
    if len(table) == 1:
        (key,) = table
        if isinstance(key, str) and has_tensors(table[key]):
            return key
    return None


def has_tensors(value: object, depth: int = 2) -> bool:
    """Return whether `value` is a table with tensors in it, or a table of such."""
    table = as_table(value)
    if table is None:
        return False
    if any(isinstance(item, TensorOutline) for item in table.values()):
        return True
    return depth > 0 and any(has_tensors(table.get(key), depth - 1) for key in CONTAINERS)


def tensors_of(table: dict[object, object]) -> dict[str, TensorOutline]:
    """Return the entries of `table` that are tensors."""
    return {
        key: value
        for key, value in table.items()
        if isinstance(key, str) and isinstance(value, TensorOutline)
    }


def describe_choice(name: str, container: tuple[str, ...]) -> None:
    """Log which of several sets of weights is used."""
    if "ema" in container:
        log.info("%s: using the averaged (EMA) weights.", name)
    elif container:
        log.info("%s: using the weights under %r.", name, ".".join(container))


def enter(tree: object, container: tuple[str, ...]) -> dict[str, object]:
    """Follow `container` into a loaded pickle.

    Raises:
        KeyError, TypeError: if it is not there.
    """
    for key in container:
        tree = cast("dict[str, object]", tree)[key]
    if not isinstance(tree, dict):
        raise TypeError("not a table of tensors")
    return cast("dict[str, object]", tree)
