"""What the library asks of `torch.cuda` and `torch.accelerator`, answered for a fake card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from .card import Card, Recorded
from .tensors import CUDA, FakeCuda, is_card

NAME = "Fake card"
MULTIPROCESSORS = 32
# The one module that asks whether a weight is a plain tensor, which those of the card are here.
CHOICE = "latte_core.kernels.choice"


class Event:
    """Stands for `torch.cuda.Event`; see `Card.milliseconds`.

    Args:
        card: on which it is recorded.
    """

    def __init__(self, card: Card, **_: Any) -> None:
        self._card = card

    def record(self, stream: Any = None) -> None:
        """Mark a place on a stream."""

    def wait(self, stream: Any = None) -> None:
        """Have a stream wait, which the host does not."""

    def query(self) -> bool:
        """Return that all work is done."""
        return True

    def synchronize(self) -> None:
        """Have the host wait."""
        self._card.read_back("Event.synchronize")

    def elapsed_time(self, other: Event) -> float:
        """Return milliseconds."""
        return self._card.milliseconds()


class Stream:
    """Stands for `torch.cuda.Stream`; work on it is done at once.

    Args:
        card: on which it runs.
    """

    device = CUDA

    def __init__(self, card: Card, *_: Any, **__: Any) -> None:
        self._card = card

    def wait_stream(self, other: Any) -> None:
        """Wait for another stream, which the host does not."""

    def wait_event(self, event: Any) -> None:
        """Wait for an event, which the host does not."""

    def record_event(self, event: Any = None) -> Event:
        """Mark a place."""
        return event or Event(self._card)

    def is_capturing(self) -> bool:
        """Return whether a graph is captured."""
        return self._card.recording is not None

    def query(self) -> bool:
        """Return that all work is done."""
        return True

    def synchronize(self) -> None:
        """Have the host wait."""
        self._card.read_back("Stream.synchronize")


class Graph:
    """Stands for `torch.cuda.CUDAGraph`: does what was captured again, on the same data.

    Args:
        card: on which it is captured.
    """

    def __init__(self, card: Card, *_: Any, **__: Any) -> None:
        self._card = card
        self.recorded: list[Recorded] = []

    def replay(self) -> None:
        """Compute every captured operator again into the memory of its result."""
        for func, args, kwargs, out in self.recorded:
            for old, made in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != made.data_ptr():
                    old.copy_(made)

    def reset(self) -> None:
        """Forget what was captured."""
        self.recorded = []

    def pool(self) -> tuple[int, int]:
        """Return a name of its memory."""
        return 0, 0


class CardGenerator(torch.Generator):
    """Draws on the card what the CPU draws."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]


class GeneratorKind(type):
    """Makes generators of either device, and calls both generators."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return CardGenerator() if is_card(device) else PLAIN_GENERATOR(device)

    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, PLAIN_GENERATOR)


PLAIN_GENERATOR = torch.Generator


class AnyGenerator(metaclass=GeneratorKind):
    """Stands for `torch.Generator`."""


def answers(card: Card) -> dict[str, Any]:
    """Return what takes the places of names in `torch.cuda`."""
    default = Stream(card)
    current = [default]

    @contextmanager
    def use_stream(stream: Stream | None) -> Generator[None]:
        current.append(current[-1] if stream is None else stream)
        try:
            yield
        finally:
            current.pop()

    @contextmanager
    def use_device(device: Any) -> Generator[None]:
        yield

    @contextmanager
    def capture(graph: Graph, *_: Any, **__: Any) -> Generator[None]:
        card.forbid("another capture")
        card.recording = []
        try:
            yield
            graph.recorded = card.recording
        finally:
            card.recording = None

    def synchronize(device: Any = None) -> None:
        card.read_back("synchronize")

    def stats(device: Any = None) -> dict[str, int]:
        return {
            "allocated_bytes.all.current": card.memory.now,
            "allocated_bytes.all.peak": card.memory.peak,
            "reserved_bytes.all.current": card.memory.now,
            "reserved_bytes.all.peak": card.memory.peak,
            "active_bytes.all.current": card.memory.now,
            "inactive_split_bytes.all.current": 0,
        }

    def forget_peak(device: Any = None) -> None:
        card.memory.peak = card.memory.now

    major, minor = card.capability
    properties = SimpleNamespace(
        name=NAME,
        major=major,
        minor=minor,
        total_memory=card.memory.total,
        multi_processor_count=MULTIPROCESSORS,
        warp_size=32,
        max_threads_per_multi_processor=1536,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=101376,
        gcnArchName="",
        is_integrated=0,
    )
    now, peak = (lambda device=None: card.memory.now), (lambda device=None: card.memory.peak)
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": use_device,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: card.capability,
        "get_device_properties": lambda device=None: properties,
        "get_arch_list": lambda: [f"sm_{major}{minor}"],
        "is_bf16_supported": lambda including_emulation=True: including_emulation or major >= 8,
        "is_tf32_supported": lambda: major >= 8,
        "mem_get_info": lambda device=None: (
            card.memory.total - card.memory.now,
            card.memory.total,
        ),
        "memory_allocated": now,
        "memory_reserved": now,
        "max_memory_allocated": peak,
        "max_memory_reserved": peak,
        "memory_stats": stats,
        "reset_peak_memory_stats": forget_peak,
        "reset_accumulated_memory_stats": lambda device=None: None,
        "set_per_process_memory_fraction": lambda fraction, device=None: None,
        "empty_cache": lambda: card.forbid("empty_cache"),
        "ipc_collect": lambda: None,
        "synchronize": synchronize,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)],
        "set_rng_state_all": lambda states: None,
        "Event": _bound(Event, card),
        "Stream": _bound(Stream, card),
        "CUDAGraph": _bound(Graph, card),
        "stream": use_stream,
        "current_stream": lambda device=None: current[-1],
        "default_stream": lambda device=None: default,
        "set_stream": lambda stream: None,
        "graph": capture,
        "graph_pool_handle": lambda: (0, 0),
        "is_current_stream_capturing": lambda: card.recording is not None,
    }


def _bound(kind: Any, card: Card) -> Any:
    """Return a class whose objects belong to the card."""

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, card, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__init__": start})


def accelerator_answers(card: Card) -> dict[str, Callable[..., Any]]:
    """Return what takes the places of names in `torch.accelerator`."""
    now, peak = (lambda device=None: card.memory.now), (lambda device=None: card.memory.peak)
    return {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "device_count": lambda: 1,
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "set_device_index": lambda device: None,
        "current_stream": lambda device=None: torch.cuda.current_stream(),
        "synchronize": lambda device=None: card.read_back("synchronize"),
        "empty_cache": lambda: card.forbid("empty_cache"),
        "memory_allocated": now,
        "memory_reserved": now,
        "max_memory_allocated": peak,
        "max_memory_reserved": peak,
        "reset_peak_memory_stats": lambda device=None: None,
    }


@contextmanager
def patched(card: Card) -> Generator[None]:
    """Answer for the card until the end, then put everything back."""
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers(card).items():
            patch.setattr(torch.cuda, name, answer, raising=False)
        accelerator: Any = getattr(torch, "accelerator", None)
        if accelerator is not None:
            for name, answer in accelerator_answers(card).items():
                if hasattr(accelerator, name):
                    patch.setattr(accelerator, name, answer)
        patch.setattr(torch.backends.cuda, "is_built", lambda: True)
        patch.setattr(torch, "Generator", AnyGenerator)
        for name, module in list(sys.modules.items()):
            if name.endswith(CHOICE):
                patch.setattr(module, "Tensor", FakeCuda, raising=False)
        yield


@contextmanager
def threads_with(made: Callable[[], AbstractContextManager[None]]) -> Generator[None]:
    """Run threads that start until the end inside a context, because torch's modes are a thread's.

    Args:
        made: a context for one thread.
    """
    plain = Thread.run

    def run(self: Thread) -> None:
        with made():
            plain(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Thread, "run", run)
        yield
