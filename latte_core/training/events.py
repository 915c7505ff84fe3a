"""TensorBoard events of a run, where the package tensorboard is installed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("latte")


class EventWriter:
    """Writes the numbers of reports as scalars; does nothing without tensorboard, and says so.

    Args:
        folder: for event files; `tensorboard --logdir` shows it.
    """

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            summary: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            logger.info(
                "TensorBoard events are not written: the package tensorboard is not installed. "
                "The losses are in log.jsonl and loss.png."
            )
            return
        self._writer = summary.SummaryWriter(str(folder))

    def add(self, values: Mapping[str, float]) -> None:
        """Write one report; `step` is its place."""
        if self._writer is None:
            return
        for name, value in values.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, int(values["step"]))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
