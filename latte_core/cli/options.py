"""Values that several commands read from the command line."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import torch

from ..errors import MissingDependencyError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ProgressBar(Protocol):
    """The part of tqdm that is used."""

    total: float | None

    def update(self, n: float = 1) -> bool | None:
        """Advance by n steps."""
        ...

    def close(self) -> None:
        """Finish the line."""
        ...


def dtype_from(name: str | None) -> torch.dtype | None:
    """Return the dtype of a name in `DTYPES`; nothing for nothing."""
    return None if name is None else DTYPES[name]


def progress_bar(description: str) -> ProgressBar:
    """Return a bar on the error stream that shows remaining time.

    Raises:
        MissingDependencyError: if tqdm is not installed.
    """
    try:
        module: Any = importlib.import_module("tqdm")
    except ImportError as error:
        raise MissingDependencyError(
            "The command line shows progress with the package tqdm, which is not installed. "
            "Run: pip install tqdm"
        ) from error
    made = module.tqdm(desc=description, unit="step", dynamic_ncols=True)
    return cast("ProgressBar", made)
