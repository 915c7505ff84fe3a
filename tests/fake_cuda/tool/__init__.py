"""A card that is not there: tensors say `cuda:0` and hold data of the CPU, or none at all.

    from latte_fake_cuda import fake_cuda

    with fake_cuda(capability=(8, 6), total_memory=12 * 10**9) as card:
        pipeline = Pipeline.from_pretrained(folder, device="cuda")
        pipeline("a red circle", num_steps=3, callback=card.next_step)
        assert not card.read_backs, card.report()

Inside the block `torch.cuda` answers for the card, and everything that torch has for
`device="cuda"` makes tensors of it. What CUDA refuses is refused: operators on tensors of both
devices (`MixedDevicesError`, with the operator and the line), and during the capture of a graph
read-backs and copies from pageable memory (`CaptureError`). What CUDA does quietly is written
down, with the line in this repository that asked for it: `card.copies` and `card.read_backs`;
`card.step_table()` counts both by step, `card.report()` says it in text. A step ends when
`card.next_step` is called, which can be the callback of a run.

Values are those of the CPU. Random numbers drawn on the card are the CPU's of the same seed. A
stream does its work at once, so that a missing wait is not seen. A graph is captured and replayed.

`meta=True` keeps no data, for models of full size: `card.memory.peak` are the most bytes alive at
once, `card.counter` counts launches and bytes by the rules of `benchmarks/measuring/counting.py`,
and what the host reads back is zero, or True. Tensors of the host may be on `meta` then, too.

Gradients work. Autocast for `cuda` does nothing, because C++ takes tensors of the card for meta.
Triton's kernels run in its interpreter where the process has `TRITON_INTERPRET=1` from the start.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from .card import CaptureError, Card, CardMode, MixedDevicesError
from .counting import attention_as_one, make_counter
from .host import patched, threads_with
from .log import Copy, ReadBack, StepRow
from .memory import LiveBytes
from .tensors import FakeCuda, FunctionsMode

GB = 10**9

__all__ = [
    "CaptureError",
    "Card",
    "Copy",
    "FakeCuda",
    "MixedDevicesError",
    "ReadBack",
    "StepRow",
    "fake_cuda",
]


@contextmanager
def present(card: Card) -> Generator[None]:
    """Have a card in this thread."""
    with FunctionsMode(), CardMode(card):
        yield


@contextmanager
def fake_cuda(
    *,
    capability: tuple[int, int] = (9, 0),
    total_memory: int = 24 * GB,
    meta: bool = False,
    later_is_faster: bool = False,
) -> Generator[Card]:
    """Have a card until the end of the block; then everything is as it was.

    Args:
        capability: (7, 5) is Turing, (8, 6) Ampere, (8, 9) Ada, (9, 0) Hopper.
        total_memory: bytes; more alive at once raise `torch.OutOfMemoryError`.
        meta: keep no data.
        later_is_faster: let each timing be shorter than the one before, so that of several ways to
            compute the same the last is chosen; else all take as long, and the first is.
    """
    card = Card(
        capability=capability,
        memory=LiveBytes(total_memory),
        is_meta=meta,
        later_is_faster=later_is_faster,
    )
    with ExitStack() as stack:
        stack.enter_context(patched(card))
        stack.enter_context(threads_with(lambda: present(card)))
        stack.enter_context(present(card))
        card.counter = stack.enter_context(make_counter())
        if meta:
            stack.enter_context(attention_as_one())
        stack.callback(card.take_away)
        yield card
