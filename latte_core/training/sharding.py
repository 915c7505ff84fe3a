"""Tensors that are spread over processes (FSDP): this process's part, and the whole.

Under FSDP each process holds a part of every weight, as a DTensor. Averages and updates work on the
parts; checkpoints and results hold whole tensors, so that a run may go on with another number of
processes. A tensor that is not spread is its own part and its own whole.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_spread(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over processes."""
    return hasattr(tensor, "full_tensor")


def part_of(tensor: Tensor) -> Tensor:
    """Return this process's part; it shares memory with the tensor."""
    spread: Any = tensor
    return spread.to_local() if is_spread(tensor) else tensor


def whole_of(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; every process has to ask."""
    spread: Any = tensor
    return spread.full_tensor() if is_spread(tensor) else tensor


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """Return a part as a tensor that is spread as `tensor` is."""
    if not is_spread(tensor):
        return part
    spread: Any = tensor
    library: Any = importlib.import_module("torch.distributed.tensor")
    return library.DTensor.from_local(
        part,
        spread.device_mesh,
        spread.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def cut(whole: Tensor, tensor: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, cut as `tensor` is."""
    if not is_spread(tensor):
        return whole
    spread: Any = tensor
    library: Any = importlib.import_module("torch.distributed.tensor")
    placed = library.distribute_tensor(
        whole.to(spread.device_mesh.device_type), spread.device_mesh, spread.placements
    )
    return placed.to_local()


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state with whole tensors; every process has to ask."""
    if not any(is_spread(value) for value in network.parameters()):
        return optimizer.state_dict()
    state: dict[str, Any] = optimizer.state_dict()
    moments: dict[Any, dict[str, Any]] = state["state"]
    return {
        **state,
        "state": {
            number: {name: whole_value(value) for name, value in entry.items()}
            for number, entry in moments.items()
        },
    }


def whole_value(value: Any) -> Any:
    """Return an entry of an optimizer's state, gathered if it is a spread tensor."""
    return whole_of(value) if isinstance(value, Tensor) else value


def load_optimizer_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Take up a state of `optimizer_state`, on however many processes it was made."""
    if not any(is_spread(value) for value in network.parameters()):
        optimizer.load_state_dict(dict(state))
        return
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    moments: dict[Any, dict[str, Any]] = {}
    for number, entry in state["state"].items():
        weight = trained[number]
        moments[number] = {
            name: like(cut(value, weight), weight)
            if isinstance(value, Tensor) and value.shape == weight.shape
            else value
            for name, value in entry.items()
        }
    optimizer.load_state_dict({**state, "state": moments})
