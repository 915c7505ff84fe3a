"""Which videos of a run one of several processes makes.

Video number i, or with `--batch` batch number i, is made by process i modulo their number, with the
seeds it has anyway, so that all processes together make what one would. They never talk to each
other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...checks import check_integer
from ...errors import InvalidInputError

MOST_PROCESSES = 65536
RANK, WORLD_SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"  # set by torchrun and accelerate


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One process of several.

    Args:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on this machine, where a launcher says it.

    Raises:
        InvalidInputError: for a number out of range.
    """

    rank: int = 0
    world: int = 1
    local_rank: int | None = None

    def __post_init__(self) -> None:
        check_integer("--world", self.world, 1, MOST_PROCESSES)
        check_integer("--rank", self.rank, 0, self.world - 1)

    @classmethod
    def of(cls, rank: int | None, world: int | None, folder: str | None) -> Share:
        """Return the share that options ask for, else the one a launcher has set.

        Args:
            rank, world: `--rank` and `--world`.
            folder: `--output-dir`; only a folder can be filled by several processes.

        Raises:
            InvalidInputError: for half of the options, or several processes without a folder.
        """
        if (rank is None) != (world is None):
            raise InvalidInputError("--rank and --world belong together. Give both, or neither.")
        local_rank = None
        if rank is None or world is None:
            rank, world = _variable(RANK), _variable(WORLD_SIZE)
            if rank is None or world is None:
                return cls()
            local_rank = _variable(LOCAL_RANK)
        share = cls(rank=rank, world=world, local_rank=local_rank)
        if share.world > 1 and folder is None:
            raise InvalidInputError(
                f"{share.world} processes were started, but they would all write the same file. "
                "Give --output-dir in place of --output."
            )
        return share

    def has(self, number: int) -> bool:
        """Return whether this process makes the batch of this number."""
        return number % self.world == self.rank

    def device(self, given: str | None) -> str | None:
        """Return the device of this process: as asked, else one accelerator for each process."""
        if given is not None or self.local_rank is None:
            return given
        import torch

        if not torch.accelerator.is_available():
            return given
        found = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count()
        return None if found is None else f"{found.type}:{self.local_rank % count}"


def _variable(name: str) -> int | None:
    """Return an environment variable as a number.

    Raises:
        InvalidInputError: if it is none.
    """
    text = os.environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInputError(
            f"The environment variable {name} is {text!r}, but it must be a whole number. Unset "
            "it, or give --rank and --world."
        ) from error
