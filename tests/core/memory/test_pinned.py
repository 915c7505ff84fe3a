"""Page-locked memory: its blocks, what weights look like in it, and systems that give none."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.memory import BlockStream, WholeLoan, block_groups, loans
from latte_core.memory.pinned import (
    BUFFER_BYTES,
    LARGEST_BLOCK,
    PinnedMemory,
    aligned,
    blocks_for,
    flat_bytes,
    power_of_two,
    view_as,
)

CPU = torch.device("cpu")
WIDTH, INNER, PAIRS = 1152, 4 * 1152, 28
# of a pair of Latte-1's blocks in 16 bits: attention, with the text too in the first, and inner
# layers. The rest is smaller than a block of the least size.
MATRICES = [*[WIDTH * WIDTH * 2] * 8, *[WIDTH * INNER * 2] * 2, *[WIDTH * WIDTH * 2] * 4]
MATRICES += [WIDTH * INNER * 2] * 2
LATTE_1 = MATRICES * PAIRS


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Blocks that a system with enough of it gave."""
    given: list[Tensor] = []
    real = torch.empty

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = real(*size, **options)
        if pin_memory:
            given.append(made)
        return made

    def is_pinned(one: Tensor) -> bool:
        starts = {block.untyped_storage().data_ptr() for block in given}
        return one.untyped_storage().data_ptr() in starts

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(Tensor, "is_pinned", is_pinned)
    return given


def test_blocks_are_powers_of_two_and_hold_every_tensor_whole() -> None:
    sizes = [1, 300, 5000, 256, 70_000, 12]
    blocks = list(blocks_for(sizes))
    assert all(block.num_bytes == power_of_two(block.num_bytes) for block in blocks)
    assert [block.first for block in blocks[1:]] == [
        block.first + block.num_tensors for block in blocks[:-1]
    ]
    assert sum(block.num_tensors for block in blocks) == len(sizes)
    for block in blocks:
        held = sizes[block.first : block.first + block.num_tensors]
        assert sum(map(aligned, held)) <= block.num_bytes
    assert list(blocks_for([])) == []


def test_rounding_takes_little_for_the_weights_of_latte_1() -> None:
    taken = sum(block.num_bytes for block in blocks_for(LATTE_1))
    assert sum(LATTE_1) <= taken <= 1.05 * sum(LATTE_1)
    # rounded up one by one, as they were asked for
    assert sum(map(power_of_two, LATTE_1)) > 1.5 * sum(LATTE_1)


@pytest.mark.parametrize("size", [LARGEST_BLOCK - 1, LARGEST_BLOCK, 3 * LARGEST_BLOCK])
def test_a_tensor_larger_than_a_block_gets_one_of_its_own(size: int) -> None:
    blocks = list(blocks_for([size, 100]))
    assert blocks[0].num_bytes == power_of_two(aligned(size))
    assert sum(block.num_tensors for block in blocks) == 2


def test_kept_weights_are_the_same_objects_with_the_same_bits(locked: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(40, 30), nn.Linear(30, 40).half()]
    turned = nn.Parameter(torch.randn(7, 9, generator=generator).t())
    tensors = [*layers[0].parameters(), *layers[1].parameters(), turned]
    before = [one.detach().clone() for one in tensors]
    memory = PinnedMemory()
    memory.keep([*tensors, *tensors])
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
    assert all(one.is_pinned() for one in tensors)
    assert turned.t().is_contiguous()
    assert memory.num_bytes == sum(block.numel() for block in locked)
    assert memory.num_bytes - 2 * BUFFER_BYTES < 3 * sum(one.nbytes + 256 for one in before)
    memory.keep(tensors)  # they are there already
    assert memory.num_bytes == sum(block.numel() for block in locked)


def test_bytes_of_a_tensor_are_those_of_its_memory() -> None:
    tensor = torch.arange(12, dtype=torch.float16).view(3, 4)
    for one in (tensor, tensor.t()):
        made = flat_bytes(one)
        assert made is not None
        assert torch.equal(view_as(made, one), one)
        assert made.data_ptr() == tensor.data_ptr()
    assert flat_bytes(tensor[:, ::2]) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: operation not supported\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: out of memory"),
        torch.OutOfMemoryError("no room"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("from_block", [False, True], ids=["at once", "in the middle"])
@torch.no_grad()
def test_system_without_page_locked_memory_is_mentioned_once_and_gives_the_same_bits(
    error: Exception,
    from_block: bool,
    locked: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = torch.empty

    def empty(*size: Any, **options: Any) -> Tensor:
        if options.get("pin_memory") and (not from_block or len(locked) == 3):
            raise error
        return given(*size, **options)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(loans, "is_cuda", lambda _: True)
    stand_in_for_streams(monkeypatch)
    model: Any = tiny_model(num_layers=3)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    given_to_it = latents, torch.tensor([500]), torch.randn(2, 5, 24, generator=generator)
    expected = model(*given_to_it)
    memory = PinnedMemory()
    with caplog.at_level(logging.WARNING, "latte"):
        for _ in range(2):
            loan = WholeLoan(model, CPU, pinned=memory, keeps=True)
            assert torch.equal(model(*given_to_it), expected)
            loan.end()
            groups = block_groups(model)
            stream = BlockStream(model, groups, CPU, pinned=memory, keeps=True, smallest=200)
            assert torch.equal(model(*given_to_it), expected)
            stream.end()
    assert torch.equal(model(*given_to_it), expected)
    assert len(caplog.records) == 1
    assert "weights go to the device from ordinary memory" in caplog.text


def stand_in_for_streams(patch: pytest.MonkeyPatch) -> None:
    """Have streams that do everything at once."""

    class Stream:
        def __init__(self, *_: Any) -> None:
            pass

        def record_event(self) -> Stream:
            return self

        def wait_event(self, _: Any) -> None: ...

        def wait_stream(self, _: Any) -> None: ...

        def synchronize(self) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None: ...

    patch.setattr(torch.cuda, "Stream", Stream)
    patch.setattr(torch.cuda, "current_stream", Stream)
    patch.setattr(torch.cuda, "stream", Stream)
