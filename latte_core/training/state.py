"""Save and load the state of a training run so that a stopped run goes on where it was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..files import atomic_write


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, optimizer state and the next step; the file is replaced only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with atomic_write(path) as partial:
        torch.save(state, partial)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a saved state if there is one and return the step to go on from, else 0."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
