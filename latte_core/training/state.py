"""Save and load the state of a training run so that a stopped run goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import atomic_write


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; an older state is replaced only when this one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        torch.save(state, partial)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; nothing but tensors and plain values is accepted."""
    return torch.load(path, weights_only=True)


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, optimizer state and the next step."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    write_state(path, state)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a saved state if there is one and return the step to go on from, else 0."""
    if not path.exists():
        return 0
    state = read_state(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
