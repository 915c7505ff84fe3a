"""The parts of one pipeline on their way in and out of the device, in the order of a run."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..devices import is_out_of_memory
from ..model.latte.transformer import Latte
from ..model.t2v.transformer import LatteT2V
from .estimate import Choice
from .groups import block_groups
from .loans import BlockStream, Loan, WholeLoan
from .pinned import PinnedMemory
from .plan import CPU, KEEP_ALL, PRESETS, RESIDENT, STREAMED, MemoryPlan, Place, smaller_than

logger = logging.getLogger("latte")
CPU_DEVICE = torch.device("cpu")


class Stages:
    """Has one part on the device at a time, if the plan says so.

    Args:
        choice: the plan, and why it was taken.
        device: where the parts work.
        advises: say which preset to take next when memory runs out.
    """

    def __init__(self, choice: Choice, device: torch.device, *, advises: bool = True) -> None:
        self.choice = choice
        self.device = device
        self._advises = advises
        self._lent: nn.Module | None = None
        self._loan: Loan | None = None
        self._pinned = PinnedMemory()

    @classmethod
    def none(cls) -> Stages:
        """Return what moves nothing, for parts that the caller has placed."""
        choice = Choice(plan=PRESETS[KEEP_ALL], reason="as the caller placed them")
        return cls(choice, CPU_DEVICE, advises=False)

    @property
    def plan(self) -> MemoryPlan:
        """What is done."""
        return self.choice.plan

    def lends(self, module: nn.Module) -> bool:
        """Whether the weights of a part are away from home now."""
        return self._lent is module

    def home(self, place: Place) -> torch.device:
        """Return where the weights of a part are kept."""
        return self.device if place == RESIDENT else CPU_DEVICE

    def use(self, module: nn.Module, place: Place) -> None:
        """Have a part where it works; what else was on loan goes back first."""
        if self._lent is module:
            return
        self.rest()
        if place in (RESIDENT, CPU):
            return
        # page-locking the text encoder too would take most of the main memory
        how: Any = {"pinned": self._pinned, "keeps": isinstance(module, Latte | LatteT2V)}
        if place == STREAMED:
            self._loan = BlockStream(module, block_groups(module), self.device, **how)
        else:
            self._loan = WholeLoan(module, self.device, **how)
        self._lent = module

    def rest(self) -> None:
        """Take back what is on loan and give the device's memory back."""
        if self._loan is None:
            return
        self._loan.end()
        self._loan = self._lent = None
        if self.device.type != CPU_DEVICE.type and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def run(self) -> Generator[None]:
        """Take everything back after a run, however it ends; advise if memory ran out.

        An out-of-memory error passes through as it is.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self._advises and is_out_of_memory(error):
                self._advise(error)
            raise
        finally:
            self.rest()

    def decoding(self, *, is_temporal: bool, chunk: int | None) -> dict[str, Any]:
        """Return how much a VAE is to decode at a time, as arguments of `VideoVAE.decode`.

        Args:
            is_temporal: the decoder looks along time, so that its frames stay together.
            chunk: frames at a time that the caller wants, which wins.
        """
        if is_temporal:
            return {"chunk": chunk, "tile": self.plan.decode_tile}
        return {"chunk": self.plan.decode_frames if chunk is None else chunk}

    def _advise(self, error: BaseException) -> None:
        smaller = smaller_than(self.plan)
        next_step = (
            f'Use the preset {smaller.name}: memory="{smaller.name}", or --memory {smaller.name}.'
            if smaller is not None
            else "It is the smallest; ask for fewer frames or a smaller size."
        )
        advice = f"Out of memory with the memory preset {self.plan.name}. {next_step}"
        logger.error(advice)
        add_note: Any = getattr(error, "add_note", None)  # since Python 3.11
        if add_note is not None:
            add_note(advice)
