"""Values that several commands read from the command line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError, MissingDependencyError
from ..files import atomic_write
from ..types import StepInfo

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")


def dtype_from(name: str | None) -> torch.dtype | None:
    """Return the dtype of a name in `DTYPES`; nothing for nothing."""
    if name is None:
        return None
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def check_json(name: str | None) -> None:
    """Find out before the work begins whether a file of `--json` can be written.

    Raises:
        InvalidInputError: if its folder is not there, or it is a folder itself.
    """
    if name is None:
        return
    path = Path(name)
    if not path.parent.is_dir() or path.is_dir():
        raise InvalidInputError(
            f"--json is {name!r}, but it must be a file in a folder that exists."
        )


def write_json(name: str, values: Mapping[str, Any]) -> None:
    """Write values to a JSON file, whole or not at all."""
    with atomic_write(Path(name)) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Progress:
    """A step callback that draws a bar with remaining time on the error stream.

    The bar appears with the first step and ends with the last, so that notices before and after
    have lines of their own.

    Args:
        description: what stands before the bar.
    """

    def __init__(self, description: str) -> None:
        self._tqdm = load_tqdm()
        self._description = description
        self._bar: Any = None

    def __call__(self, info: StepInfo) -> None:
        """Advance by one step."""
        if self._bar is None:
            self._bar = self._tqdm(
                desc=self._description, total=info.num_steps, unit="step", dynamic_ncols=True
            )
        self._bar.update()
        if info.step + 1 == info.num_steps:
            self.close()

    def close(self) -> None:
        """End the line, also of a run that did not finish."""
        if self._bar is not None:
            self._bar.close()


def load_tqdm() -> Any:
    """Return tqdm's progress bar class.

    Raises:
        MissingDependencyError: if tqdm is not installed.
    """
    try:
        return importlib.import_module("tqdm").tqdm
    except ImportError as error:
        raise MissingDependencyError(
            "The command line shows progress with the package tqdm, which is not installed. "
            "Run: pip install tqdm"
        ) from error
