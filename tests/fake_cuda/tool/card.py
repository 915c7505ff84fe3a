"""A card that is not there: runs operators on what its tensors hold, and keeps CUDA's rules."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import rules
from .attention import ON_CPU
from .log import Copy, Log, ReadBack, StepRow, caller
from .memory import LiveBytes, PinnedMemory
from .tensors import CUDA, FakeCuda, flat, held_of, is_card, shells_of

ATEN = torch.ops.aten
SMALL = 2**16  # bytes of pinned memory that has data although the card's has none, as flags do
Recorded = tuple[Any, Any, Any, Any]
"""An operator with its arguments and results, as data."""


class MixedDevicesError(RuntimeError):
    """An operator got tensors of the card and of the host."""


class CaptureError(RuntimeError):
    """Something was done while a graph was captured that a capture forbids."""


@dataclass
class Card:
    """A card and what was done with it.

    Args:
        capability: as of `torch.cuda.get_device_capability`.
        memory: bytes on it.
        is_meta: tensors hold no data.
        later_is_faster: each stretch of time is a little shorter than the one before.
    """

    capability: tuple[int, int]
    memory: LiveBytes
    is_meta: bool
    later_is_faster: bool = False

    def __post_init__(self) -> None:
        self.log = Log()
        self.pinned = PinnedMemory()
        self.recording: list[Recorded] | None = None
        self.counter: Any = None
        self.is_there = True
        self._timings = 0
        self._depth = 0

    @property
    def copies(self) -> list[Copy]:
        """Copies between host and card."""
        return self.log.copies

    @property
    def pageable_copies(self) -> list[Copy]:
        """Of those, copies to the card from memory that is not pinned."""
        return [one for one in self.copies if one.is_pageable]

    @property
    def read_backs(self) -> list[ReadBack]:
        """Places where the host waited for the card."""
        return self.log.read_backs

    @property
    def held_device(self) -> str:
        """Where the data is."""
        return "meta" if self.is_meta else "cpu"

    def next_step(self, *_: Any) -> None:
        """Begin a step: what follows is counted in it. Takes what a callback is given."""
        self.log.step += 1

    def milliseconds(self) -> float:
        """Return how long something took: always the same, or a little less each time."""
        self._timings += self.later_is_faster
        return 1.0 / (1 + self._timings)

    def take_away(self) -> None:
        """Have no card from now on."""
        self.is_there = False

    def step_table(self) -> list[StepRow]:
        """Return copies and read-backs by step."""
        return self.log.rows()

    def report(self) -> str:
        """Return the table of steps and the lines behind it as text."""
        return self.log.text()

    def wrap(self, held: Tensor) -> FakeCuda:
        """Return data as a tensor on the card."""
        self.memory.follow(held)
        return FakeCuda(held, self)

    @contextmanager
    def inside(self) -> Generator[None]:
        """Take `meta` for the card while torch works on a tensor of it, as C++ does."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator of the host, of the card, or between them.

        Raises:
            MixedDevicesError: for tensors of both where a card takes none of the host.
            CaptureError: for what a capture forbids.
        """
        leaves = flat((args, kwargs))
        fakes = [one for one in leaves if isinstance(one, FakeCuda)]
        if not self.is_there:
            if not fakes:  # in a thread that has lived longer
                return func(*args, **kwargs)
            raise RuntimeError(f"The fake card of a tensor is no longer there ({caller()}).")
        asked = kwargs.get("device")
        goes_to_card = is_card(asked) or bool(self._depth and asked == torch.device("meta"))
        between: Callable[..., Any] | None = BETWEEN.get(func)
        if between is not None:
            return between(self, func, args, kwargs)
        if not fakes and not goes_to_card:
            return self._run_on_host(func, args, kwargs)
        if fakes:
            self._check_devices(func, leaves)
            self._note_waits(func, args)
        if goes_to_card or (asked is not None and not is_host(asked)):
            kwargs = {**kwargs, "device": torch.device(self.held_device)}
        return self.run_on_card(func, args, kwargs, wraps=asked is None or goes_to_card)

    def run_on_card(
        self, func: Any, args: Any, kwargs: dict[str, Any], *, wraps: bool = True
    ) -> Any:
        """Run an operator on what tensors of the card hold, and put shells around its results."""
        known = {id(one.held): one for one in flat((args, kwargs)) if isinstance(one, FakeCuda)}
        held_args, held_kwargs = held_of(args), held_of(kwargs)
        if self.is_meta and func in rules.VALUES:
            return rules.VALUES[func](*args)
        call = func if self.is_meta else ON_CPU.get(func, func)
        out = call(*held_args, **held_kwargs)
        if self.recording is not None:
            self.recording.append((call, held_args, held_kwargs, out))
        made = shells_of(out, known, self.wrap) if wraps else out
        for held, shell in ((one.held, one) for one in known.values()):
            if held.shape != shell.shape or held.stride() != shell.stride():
                raise NotImplementedError(
                    f"{func} changed the shape of a tensor in place, which the fake card cannot "
                    f"follow ({caller()})."
                )
        return made

    def copy_to_card(
        self, source: Tensor, *, is_non_blocking: bool, num_bytes: int | None = None
    ) -> None:
        """Write down a copy from the host."""
        is_pinned = self.pinned.holds(source)
        if not is_pinned:
            self.forbid("a copy from pageable memory")
        size = source.numel() * source.element_size() if num_bytes is None else num_bytes
        self.log.copy("to card", size, is_pinned=is_pinned, is_non_blocking=is_non_blocking)

    def copy_to_host(self, source: FakeCuda, *, is_pinned: bool, is_non_blocking: bool) -> None:
        """Write down a copy to the host, which waits unless it is told not to."""
        waits = not is_non_blocking or not is_pinned
        if waits:
            self.read_back("copy")
        self.log.copy(
            "to host",
            source.numel() * source.element_size(),
            is_pinned=is_pinned,
            is_non_blocking=is_non_blocking,
        )

    def read_back(self, operator: str) -> None:
        """Write down that the host waits for the card."""
        self.forbid(f"a read-back by {operator}")
        self.log.read_back(operator)

    def forbid(self, what: str) -> None:
        """Raise if a graph is being captured.

        Raises:
            CaptureError: naming what was done, and where.
        """
        if self.recording is not None:
            raise CaptureError(
                f"CUDA error: operation not permitted when stream is capturing: {what} at "
                f"{caller()}."
            )

    def _run_on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.is_meta and func in rules.VALUES and args[0].is_meta:
            return rules.VALUES[func](*args)
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        self.forbid("an allocation of pinned memory")
        given = {**kwargs, "pin_memory": False}
        made = func(*args, **{**given, "device": torch.device("meta")}) if self.is_meta else None
        if made is None or made.nbytes < SMALL:
            made = func(*args, **given)
        return self.pinned.add(made)

    def _check_devices(self, func: Any, leaves: list[Any]) -> None:
        host = [one for one in leaves if isinstance(one, Tensor) and not isinstance(one, FakeCuda)]
        for one in host:
            if one.dim() == 0 and rules.takes_host_scalars(func):
                continue
            raise MixedDevicesError(
                f"{func} got a tensor {tuple(one.shape)} on {one.device} beside tensors on {CUDA}, "
                f"called from {caller()}. Expected all tensors to be on the same device."
            )

    def _note_waits(self, func: Any, args: Any) -> None:
        if rules.reads_back(func):
            self.read_back(func._overloadpacket.__name__)


def is_host(device: Any) -> bool:
    """Return whether a device is the CPU."""
    return torch.device(device).type == "cpu"


def run_to_copy(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run `_to_copy`: a copy between host and card, or a cast on one of them."""
    source = args[0]
    asked = kwargs.get("device")
    is_fake = isinstance(source, FakeCuda)
    to_card = is_card(asked) or (
        asked is not None and torch.device(asked).type == "meta" and (is_fake or card._depth > 0)
    )
    rest = {name: one for name, one in kwargs.items() if name not in ("device", "non_blocking")}
    is_non_blocking = bool(kwargs.get("non_blocking"))
    if not is_fake and not to_card:
        if card.is_meta and source.is_meta and asked is not None and is_host(asked):
            return torch.empty(source.shape, dtype=rest.get("dtype") or source.dtype)
        return card._run_on_host(func, args, kwargs)
    if is_fake and asked is not None and not to_card:
        # without waiting, torch takes pinned memory for the result
        card.copy_to_host(source, is_pinned=is_non_blocking, is_non_blocking=is_non_blocking)
        made = _on_host(card, func, source, rest)
        return card.pinned.add(made) if is_non_blocking else made
    if not is_fake:
        card.copy_to_card(source, is_non_blocking=is_non_blocking)
    return card.run_on_card(func, args, {**rest, "device": torch.device(card.held_device)})


def _on_host(card: Card, func: Any, source: FakeCuda, rest: dict[str, Any]) -> Tensor:
    """Return data as a tensor of the host's own; where there is none as `rules.nothing`."""
    if not card.is_meta:
        return func(source.held, **rest, device=torch.device("cpu"))
    dtype = rest.get("dtype") or source.dtype
    return torch.full(source.shape, dtype == torch.bool, dtype=dtype)


def run_copy(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run `copy_`, in either direction or on one side."""
    target, source, *more = args
    is_non_blocking = bool(more[0] if more else kwargs.get("non_blocking"))
    if isinstance(target, FakeCuda):
        if not isinstance(source, FakeCuda):
            card.copy_to_card(source, is_non_blocking=is_non_blocking)
            if card.is_meta:
                return target
        return card.run_on_card(func, args, kwargs)
    if not isinstance(source, FakeCuda):
        is_empty = card.is_meta and source.is_meta and not target.is_meta
        return target if is_empty else func(*args, **kwargs)
    is_pinned = card.pinned.holds(target)
    card.copy_to_host(source, is_pinned=is_pinned, is_non_blocking=is_non_blocking)
    if card.is_meta:
        return target.fill_(source.dtype == torch.bool)
    return func(target, source.held)


def run_index(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run `index` and `index_put`: indices may be the host's, and masks make the host wait."""
    target, indices, *rest = args
    if not isinstance(target, FakeCuda):
        if any(isinstance(one, FakeCuda) for one in flat((args, kwargs))):
            raise MixedDevicesError(
                f"{func} on a tensor on {target.device} got tensors on {CUDA}, called from "
                f"{caller()}. Expected all tensors to be on the same device."
            )
        return func(*args, **kwargs)
    card._check_devices(func, flat((rest, kwargs)))
    fills = rest and isinstance(rest[0], Tensor) and rest[0].numel() == 1
    known: list[Any] = []
    for one in indices:
        if isinstance(one, Tensor) and not isinstance(one, FakeCuda):
            card.copy_to_card(one, is_non_blocking=False)
            one = card.wrap(one.to(card.held_device))
        if one is not None and one.dtype in (torch.bool, torch.uint8) and not fills:
            card.read_back("indexing by a mask")
        known.append(one)
    return card.run_on_card(func, (target, known, *rest), kwargs)


def run_pin(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run `_pin_memory`."""
    source = args[0]
    if isinstance(source, FakeCuda):
        raise RuntimeError(f"cannot pin '{CUDA}': only dense CPU tensors can be ({caller()}).")
    card.forbid("an allocation of pinned memory")
    return card.pinned.add(source.clone(memory_format=torch.contiguous_format))


def run_is_pinned(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Run `is_pinned`."""
    return not isinstance(args[0], FakeCuda) and card.pinned.holds(args[0])


def run_nothing(card: Card, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Run what changes nothing here."""


BETWEEN: dict[Any, Callable[..., Any]] = {
    ATEN._to_copy.default: run_to_copy,
    ATEN.copy_.default: run_copy,
    ATEN.index.Tensor: run_index,
    ATEN.index_put_.default: run_index,
    ATEN.index_put.default: run_index,
    ATEN._index_put_impl_.default: run_index,
    ATEN._pin_memory.default: run_pin,
    ATEN.is_pinned.default: run_is_pinned,
    ATEN.record_stream.default: run_nothing,
}
"""Operators that concern the host and the card both."""


class CardMode(TorchDispatchMode):
    """Hands every operator to the card."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.card.run(func, args, kwargs or {})
