"""Which kernel was faster, on disk: a later process makes the same choice, and measures nothing.

A timing is never the same twice, and two kernels round differently; so the first choice of a device
and of versions of what computes there is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..files import atomic_write
from ..version import __version__

FILE_NAME = "kernels.json"
VERSION = 1  # of what a key means
MOST_CHOICES = 4096
MOST_BYTES = 2**23

logger = logging.getLogger("latte")


class ChoiceStore(Protocol):
    """Keeps choices longer than a process lives."""

    def load(self, key: str) -> int | None:
        """Return a choice, or None if there is none."""
        ...

    def save(self, key: str, choice: int) -> None:
        """Keep a choice; failing to is no error."""
        ...


class ChoiceFile:
    """A file of choices; one that is damaged is begun anew, one that cannot be written is not.

    Args:
        path: made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, int] | None = None
        self._is_writable = True

    def load(self, key: str) -> int | None:
        """Return a choice, or None if there is none."""
        if self._known is None:
            self._known = read_choices(self._path)
        return self._known.get(key)

    def save(self, key: str, choice: int) -> None:
        """Keep a choice beside those that other processes wrote meanwhile."""
        if not self._is_writable:
            return
        known = {**read_choices(self._path), key: choice}
        self._known = dict([*known.items()][-MOST_CHOICES:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path) as partial:
                told = {"version": VERSION, "choices": self._known}
                partial.write_text(json.dumps(told, indent=1), encoding="utf-8")
        except OSError as error:
            self._is_writable = False
            logger.debug("Choices of kernels are not kept: %s", error)


def read_choices(path: Path) -> dict[str, int]:
    """Return the choices in a file, in the order in which they were made; none if it is damaged."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, Any] = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    choices: Any = found.get("choices")
    if found.get("version") != VERSION or not isinstance(choices, dict):
        return {}
    told = cast("dict[str, Any]", choices)
    return {key: choice for key, choice in told.items() if type(choice) is int}


def choice_key(kernel: str, tokens: Tensor, args: tuple[Any, ...]) -> str:
    """Return what a choice depends on, in words.

    Args:
        kernel: name of the task.
        tokens: what it is done on.
        args: of the task, `tokens` among them.
    """
    told = {**computing(tokens), "kernel": kernel, "arguments": [*map(words_of, args)]}
    return ", ".join(f"{name} {value}" for name, value in told.items())


def computing(tokens: Tensor) -> Mapping[str, Any]:
    """Return what computes on the device of tokens: the card, and versions of what runs there."""
    import triton  # pyright: ignore

    device, card = tokens.device, cast("Any", torch.cuda)
    return {
        "device": card.get_device_name(device) if tokens.is_cuda else device.type,
        "capability": card.get_device_capability(device) if tokens.is_cuda else None,
        "torch": torch.__version__,
        "triton": getattr(triton, "__version__", None),
        "pack": __version__,
    }


def words_of(value: Any) -> str:
    """Return type, shape and layout of a tensor, other values as such."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.stride()}"
    return repr(value)
