"""The training nodes of the pack: how a test calls them, with which widgets, and waits."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latte_core.training.run_folder import RunFolder

from .pack import ROOT, load_pack

PACK = load_pack()
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
STARTER = ROOT / "latte_core" / "assets" / "starter"
PATIENCE = 300  # seconds; a busy machine takes long to import torch

needs_starter = pytest.mark.skipif(
    not STARTER.is_dir(), reason="latte_core/assets/starter is not there"
)


def part(name: str) -> ModuleType:
    """Return a module of the pack."""
    return importlib.import_module(f"{PACK.__name__}.{name}")


def refusal() -> Any:
    """Return the pack's own error for inputs that cannot be used."""
    return part("latte_core.errors").InvalidInputError


def call(node: str, **inputs: Any) -> Any:
    """Run a node on its defaults and these inputs."""
    cls = NODES[node]
    groups = cls.INPUT_TYPES().values()
    defaults = {name: one[1].get("default") for group in groups for name, one in group.items()}
    return getattr(cls(), cls.FUNCTION)(**{**defaults, **inputs})


def small(**changes: Any) -> dict[str, Any]:
    """Return widgets of a short run on the prepared set, without samples."""
    short = {"steps": 3, "batch_size": 2, "rank": 2, "interval": 1, "sample_every": 0}
    return {"data": "prepared", "run_name": "run", **short, **changes}


def status_of(base: Path, name: str = "run") -> dict[str, Any]:
    """Return what the training wrote about itself last."""
    return RunFolder(base / "output" / "latte_training" / name).status()


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not happen"
        pause.wait(0.2)
