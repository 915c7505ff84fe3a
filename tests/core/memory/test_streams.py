"""The order between streams and the host: nothing is written before it was read, nor read too soon.

Streams here are clocks. Work is done at once, so results show nothing of a missing wait; but every
access to a slot or a buffer is compared with all that came before it: it must be known to have
happened, through events, to whoever makes the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latte_core.memory import BlockStream, WholeLoan, block_groups, loans, pinned
from latte_core.memory.pinned import PinnedMemory

CPU = torch.device("cpu")
LAYERS = 5
BUFFER = 4096  # bytes: tensors of the tiny model pass in several pieces
SMALLEST = 200  # elements: every matrix of a block, and not its table of 6 x 16


class Clock:
    """A stream, or the host: how far it is, and how far it knows others to be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Counter[str] = Counter()

    def advance(self) -> int:
        """Do one more thing; return its number."""
        self.known[self.name] += 1
        return self.known[self.name]

    def learn(self, known: Counter[str]) -> None:
        """Be behind everything that is known."""
        self.known |= known


class Event:
    """A place on a stream."""

    def __init__(self, known: Counter[str], host: Clock) -> None:
        self.known = known
        self._host = host

    def synchronize(self) -> None:
        """Have the host wait."""
        self._host.learn(self.known)


class Stream(Clock):
    """A stream, with the methods of torch's that are used."""

    def __init__(self, name: str, host: Clock) -> None:
        super().__init__(name)
        self._host = host

    def record_event(self) -> Event:
        return Event(self.known.copy(), self._host)

    def wait_event(self, event: Event) -> None:
        self.learn(event.known)

    def wait_stream(self, other: Stream) -> None:
        self.learn(other.known)


class Watch(TorchDispatchMode):
    """Notes who reads and writes the memory of slots and buffers, and what was too early."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Clock("host")
        self.main, self.side = Stream("main", self.host), Stream("side", self.host)
        self.current = self.main
        self.shared: dict[int, str] = {}
        self.accesses: dict[int, list[tuple[str, int, bool]]] = {}
        self.kept: list[Tensor] = []
        self.locked: set[int] = set()
        self.races: list[str] = []
        self.beside: set[str] = set()

    def follow(self, memory: Tensor, kind: str) -> Tensor:
        """Watch a piece of memory from now on."""
        key = memory.untyped_storage().data_ptr()
        self.kept.append(memory)  # its address is not given away
        self.shared[key], self.accesses[key] = kind, []
        return memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            self._access(args[1], args[0], writes=False)
            self._access(args[0], args[0], writes=True)
        elif not func.is_view:
            for one in tree_leaves((args, kwargs)):
                if isinstance(one, Tensor):
                    self._access(one, one, writes=False)
        return out

    def _access(self, tensor: Tensor, target: Tensor, *, writes: bool) -> None:
        key = tensor.untyped_storage().data_ptr()
        if key not in self.shared:
            return
        fills_buffer = self.shared.get(target.untyped_storage().data_ptr()) == "buffer"
        who = self.host if fills_buffer else self.current
        who.learn(self.host.known)  # what the host asks for comes after what it did itself
        for other, number, wrote in self.accesses[key]:
            if (writes or wrote) and who.known[other] < number:
                self.races.append(f"{who.name} uses a {self.shared[key]} before {other} is done")
        other = self.side if who is self.main else self.main
        if self.shared[key] == "slot" and who.known[other.name] < other.known[other.name]:
            self.beside.add(who.name)  # what the other stream was given may still be going on
        self.accesses[key].append((who.name, who.advance(), writes))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Generator[Watch]:
    watching = Watch()

    @contextmanager
    def on(stream: Stream) -> Generator[None]:
        before, watching.current = watching.current, stream
        yield
        watching.current = before

    def take(memory: PinnedMemory, num_bytes: int) -> Tensor:
        made = torch.empty(num_bytes, dtype=torch.uint8)
        watching.locked.add(made.untyped_storage().data_ptr())
        is_buffer = num_bytes == BUFFER
        return watching.follow(made, "buffer") if is_buffer else made

    real = loans.Slot.__init__

    def make_slot(slot: Any, num_bytes: int, device: torch.device) -> None:
        real(slot, num_bytes, device)
        watching.follow(slot.memory, "slot")

    monkeypatch.setattr(loans, "is_cuda", lambda _: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: watching.side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: watching.current)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(pinned, "BUFFER_BYTES", BUFFER)
    monkeypatch.setattr(pinned, "WORTH", 256)
    monkeypatch.setattr(PinnedMemory, "_take", take)
    monkeypatch.setattr(
        Tensor, "is_pinned", lambda one: one.untyped_storage().data_ptr() in watching.locked
    )
    monkeypatch.setattr(loans.Slot, "__init__", make_slot)
    with watching:
        yield watching


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    return latents, torch.tensor([500]), torch.randn(2, 5, 24, generator=generator)


@torch.no_grad()
def run_streamed(*, keeps: bool) -> tuple[Tensor, Tensor]:
    """Return what a model gives whole, and in the second of two passes as a stream."""
    model: Any = tiny_model(num_layers=LAYERS)
    expected = model(*inputs())
    how: dict[str, Any] = {"pinned": PinnedMemory(), "keeps": keeps, "smallest": SMALLEST}
    stream = BlockStream(model, block_groups(model), CPU, **how)
    model(*inputs())
    found = model(*inputs())
    stream.end()
    return expected, found


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "handed over"])
def test_streamed_blocks_are_never_read_or_written_too_early(watch: Watch, keeps: bool) -> None:
    expected, found = run_streamed(keeps=keeps)
    assert torch.equal(found, expected)
    assert watch.races == []
    assert all(watch.accesses[key] for key in watch.shared if watch.shared[key] == "slot")


@pytest.mark.parametrize(
    ("keeps", "later"),
    [
        (True, "main"),  # the copy is asked for before the work that it runs beside
        (False, "side"),  # and what has to be handed over, after it
    ],
    ids=["kept", "handed over"],
)
def test_next_blocks_are_copied_beside_the_work(watch: Watch, keeps: bool, later: str) -> None:
    run_streamed(keeps=keeps)
    assert later in watch.beside


@torch.no_grad()
def test_whole_loan_through_buffers_has_the_same_bits_and_no_race(watch: Watch) -> None:
    model: Any = tiny_model(num_layers=2)
    expected = model(*inputs())
    loan = WholeLoan(model, CPU, pinned=PinnedMemory())
    assert torch.equal(model(*inputs()), expected)
    loan.end()
    assert watch.races == []
    assert sum(map(len, watch.accesses.values())) > 20


@pytest.mark.parametrize(
    ("owner", "method", "keeps"),
    [
        (Stream, "wait_event", True),
        (Stream, "wait_event", False),
        (Event, "synchronize", False),
    ],
)
def test_a_wait_that_is_missing_would_be_seen(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, keeps: bool
) -> None:
    monkeypatch.setattr(owner, method, lambda *_: None)
    run_streamed(keeps=keeps)
    assert watch.races
