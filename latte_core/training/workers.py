"""One process, or many through Accelerate: what differs between the two, and nothing else.

Processes are started by `accelerate launch` or `torchrun`, never by this package. They are told
apart by the environment that both of them set.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..devices import pick_device
from ..errors import InvalidInputError, MissingDependencyError
from .sharding import whole_of
from .train_config import Precision, TrainConfig

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAUNCHED = ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP")
ACCELERATE_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Workers(Protocol):
    """What a trainer asks of the processes it runs in."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move the network to the device and wrap both for what the processes need."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the precision of the run."""
        ...

    def collecting(self, network: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Exchange gradients after the last part of an update only."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        ...

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float
    ) -> Tensor:
        """Limit the gradient's norm, follow it, and return the norm; a limit of 0 is none.

        The norm is () on the device, which is waited for only where it is read.
        """
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes."""
        ...

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept beside weights and optimizer."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up."""
        ...

    def wait(self) -> None:
        """Return when all processes have come here."""
        ...

    def close(self) -> None:
        """Part from the other processes."""
        ...


class OneProcess:
    """A run in this process alone.

    Args:
        precision: of matrix products.
        device: left out: the accelerator if there is one, else the CPU.
    """

    rank = 0
    size = 1

    def __init__(self, precision: Precision, device: torch.device | str | None = None) -> None:
        self.device = pick_device(device)
        self.dtype = DTYPES[precision]
        # float16 gradients vanish unless they are scaled up; other types need no scale.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return network, optimizer

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def collecting(self, network: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self.scaler.scale(loss))

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float
    ) -> Tensor:
        self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    def mean(self, values: Tensor) -> Tensor:
        return values

    def any(self, flag: bool) -> bool:
        return flag

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.scaler.load_state_dict(state)

    def wait(self) -> None:
        return

    def close(self) -> None:
        return


class ManyProcesses:
    """A run in processes that `accelerate launch` or `torchrun` started, through Accelerate.

    Data parallel (DDP), or FSDP of version 2 if Accelerate's own configuration says so.

    Args:
        precision: of matrix products.
        device: "cpu" keeps accelerators out.

    Raises:
        MissingDependencyError: without the package accelerate.
        InvalidInputError: for FSDP of version 1.
    """

    def __init__(self, precision: Precision, device: torch.device | str | None = None) -> None:
        accelerate = import_accelerate()
        self.accelerator: Any = accelerate.Accelerator(
            mixed_precision=ACCELERATE_NAMES[precision], cpu=str(device) == "cpu"
        )
        plugin: Any = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version != 2:
            raise InvalidInputError(
                f"Accelerate is configured for FSDP version {plugin.fsdp_version}, which mixes all "
                "weights of a block. Set fsdp_version: 2 in its configuration."
            )

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def size(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self.accelerator.prepare(network, optimizer)

    def autocast(self) -> AbstractContextManager[Any]:
        return self.accelerator.autocast()

    def collecting(self, network: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else self.accelerator.no_sync(network)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float
    ) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(parameters, limit or float("inf"))
        optimizer.step()
        return whole_of(norm)

    def mean(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="mean")

    def any(self, flag: bool) -> bool:
        count = torch.full((), float(flag), device=self.device)
        return bool(self.accelerator.reduce(count, reduction="sum") > 0)

    def state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None and state:
            self.accelerator.scaler.load_state_dict(state)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        self.accelerator.end_training()


def import_accelerate() -> Any:
    """Return the package accelerate.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return importlib.import_module("accelerate")
    except ImportError as error:
        raise MissingDependencyError(
            "Training in several processes needs the package accelerate, which is not installed. "
            "Run: pip install accelerate, or start the training in one process."
        ) from error


def was_launched(environment: Iterable[str] | None = None) -> bool:
    """Return whether `accelerate launch` or `torchrun` started this process."""
    names = set(os.environ if environment is None else environment)
    return any(name in names for name in LAUNCHED)


def find_workers(precision: Precision, device: torch.device | str | None = None) -> Workers:
    """Return the processes this one belongs to."""
    return (ManyProcesses if was_launched() else OneProcess)(precision, device)


def split_batch(config: TrainConfig, num_processes: int) -> tuple[int, int]:
    """Return the clips of one process in an update, and how many of them go in at once.

    Raises:
        InvalidInputError: if one of the two does not divide evenly.
    """
    share, left = divmod(config.batch_size, num_processes)
    micro = config.micro_batch or share
    if left or not share or share % micro:
        raise InvalidInputError(
            f"batch_size {config.batch_size} cannot be split over {num_processes} processes into "
            f"parts of {micro or 'equal size'}. Choose a batch_size that is a multiple of "
            f"{num_processes} x micro_batch."
        )
    return share, micro
