"""The fake card keeps CUDA's rules, writes down what CUDA does quietly, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_fake_cuda import CaptureError, FakeCuda, MixedDevicesError, fake_cuda
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.fake_cuda
HERE = "tests/fake_cuda/test_tool.py"
MIB = 2**20


def line_of(text: str) -> str:
    """Return the first line of this file that holds a text, as the card names it."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{HERE}:{next(at for at, line in enumerate(lines, 1) if text in line)}"


FACTORIES: dict[str, Callable[[], Tensor]] = {
    "empty": lambda: torch.empty(2, 3, device="cuda"),
    "zeros": lambda: torch.zeros(2, 3, device="cuda:0"),
    "full": lambda: torch.full((2, 3), 5.0, device=torch.device("cuda")),
    "arange": lambda: torch.arange(6, device="cuda"),
    "linspace": lambda: torch.linspace(0, 1, 6, device="cuda"),
    "randn": lambda: torch.randn(2, 3, device="cuda"),
    "tensor": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "like": lambda: torch.zeros_like(torch.ones(3), device="cuda"),
    "new": lambda: torch.ones(3).new_zeros(2, device="cuda"),
    "to": lambda: torch.ones(3).to("cuda"),
    "cuda": lambda: torch.ones(3).cuda(),
    "context": lambda: make_in_context(),
}


def make_in_context() -> Tensor:
    with torch.device("cuda"):
        return torch.ones(3)


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
def test_factory_makes_tensor_of_the_card(make: Callable[[], Tensor], meta: bool) -> None:
    with fake_cuda(meta=meta):
        made = make() + 1
    assert isinstance(made, FakeCuda)
    assert made.is_cuda
    assert made.device == torch.device("cuda:0")
    assert made.held.device.type == ("meta" if meta else "cpu")


def test_values_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    layer, given = nn.Linear(3, 4), torch.randn(2, 3)
    expected = functional.gelu(layer(given))[1:, :2].t()
    with torch.no_grad(), fake_cuda():
        found = functional.gelu(layer.to("cuda")(given.to("cuda")))[1:, :2].t().cpu()
    assert type(found) is Tensor
    assert torch.equal(found, expected)


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda one: one + torch.ones(2),
    "product": lambda one: one @ torch.ones(2, 2),
    "sum in place on the host": lambda one: torch.ones(2).add_(one),
    "scalar in a list": lambda one: torch.stack([one[0], torch.tensor(1.0)]),
    "table": lambda one: functional.embedding(torch.zeros(2, dtype=torch.int64), one[:, None]),
    "index of the host's": lambda one: torch.ones(2)[one.long()],
    "where": lambda one: torch.where(one > 0, one, torch.zeros(2)),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_operator_on_both_devices_is_refused_with_its_line(call: Callable[[Tensor], Any]) -> None:
    with fake_cuda():
        one = torch.ones(2, device="cuda")
        with pytest.raises(MixedDevicesError, match=rf"aten\.\w+.* called from {HERE}:\d+"):
            call(one)


ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda one: one * 2,
    "scalar": lambda one: one * torch.tensor(2.0),
    "where": lambda one: torch.where(one > 0, one, torch.tensor(0.0)),
    "fill": lambda one: one.fill_(torch.tensor(2.0)),
    "masked fill": lambda one: one.masked_fill(one > 0, torch.tensor(2.0)),
}


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_numbers_of_the_host_are_allowed_as_on_cuda(call: Callable[[Tensor], Tensor]) -> None:
    with fake_cuda() as card:
        assert call(torch.ones(2, device="cuda")).is_cuda
    assert not card.read_backs


def test_copy_from_pageable_memory_is_logged_with_its_line() -> None:
    with fake_cuda() as card:
        torch.ones(3).to("cuda", non_blocking=True)  # pageable
    (copy,) = card.copies
    assert (copy.direction, copy.num_bytes, copy.is_pageable) == ("to card", 12, True)
    assert copy.is_non_blocking
    assert copy.line == line_of("# pageable")


def test_copy_from_pinned_memory_is_not_pageable() -> None:
    with fake_cuda() as card:
        pinned = torch.ones(3).pin_memory()
        assert pinned.is_pinned()
        assert pinned.view(3, 1).is_pinned()
        assert not torch.ones(3).is_pinned()
        torch.zeros(3, device="cuda").copy_(pinned, non_blocking=True)
        torch.zeros(3, device="cuda").copy_(torch.empty(3, pin_memory=True))
    assert [(copy.is_pinned, copy.is_non_blocking) for copy in card.copies] == [
        (True, True),
        (True, False),
    ]
    assert not card.pageable_copies


def test_thread_has_the_card_too() -> None:
    with fake_cuda() as card, ThreadPoolExecutor(1) as pool:
        pinned = pool.submit(lambda: torch.ones(3).pin_memory()).result()
        assert pinned.is_pinned()
        assert pool.submit(lambda: torch.ones(3).to("cuda")).result().is_cuda
    assert len(card.pageable_copies) == 1


READ_BACKS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda one: one[0].item(),
    "float": lambda one: float(one[0]),
    "truth": lambda one: bool((one > 0).all()),
    "branch": lambda one: 1 if one[0] > 0 else 2,
    "cpu": lambda one: one.cpu(),
    "copy": lambda one: torch.empty(2).copy_(one),
    "list": lambda one: one.tolist(),
    "nonzero": lambda one: one.nonzero(),
    "mask": lambda one: one[one > 0],
    "masked select": lambda one: one.masked_select(one > 0),
    "equal": lambda one: torch.equal(one, one),
    "unique": lambda one: one.unique(),
    "synchronize": lambda one: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("call", READ_BACKS.values(), ids=READ_BACKS)
def test_read_back_is_logged_with_its_line(call: Callable[[Tensor], Any]) -> None:
    with fake_cuda() as card:
        call(torch.ones(2, device="cuda"))
    assert card.read_backs
    assert all(one.line.startswith(f"{HERE}:") for one in card.read_backs)


def test_copy_to_pinned_memory_without_waiting_is_no_read_back() -> None:
    with fake_cuda() as card:
        target = torch.empty(2, pin_memory=True)
        target.copy_(torch.ones(2, device="cuda"), non_blocking=True)
        torch.ones(2, device="cuda").to("cpu", non_blocking=True)
    assert target.tolist() == [1, 1]
    assert len(card.copies) == 2
    assert not card.read_backs


def test_filling_by_a_mask_is_no_read_back() -> None:
    with fake_cuda() as card:
        one = torch.ones(2, device="cuda")
        one[one > 0] = 3.0
        assert one.held.tolist() == [3, 3]
    assert not card.read_backs


def test_step_table_counts_by_step() -> None:
    with fake_cuda() as card:
        one = torch.ones(4).to("cuda")
        card.next_step()
        one.sum().item()
        card.next_step()
        one.copy_(torch.ones(4))
        one.cpu()
    rows = [(row.step, row.pageable_copies, row.read_backs) for row in card.step_table()]
    assert rows == [(0, 1, 0), (1, 0, 1), (2, 1, 1)]
    assert f"{HERE}:" in card.report()


def test_generator_draws_where_it_is() -> None:
    expected = torch.randn(3, generator=torch.Generator().manual_seed(5))
    with fake_cuda():
        draws = torch.Generator(device="cuda").manual_seed(5)
        assert isinstance(draws, torch.Generator)
        assert torch.equal(torch.randn(3, generator=draws, device="cuda").cpu(), expected)
        host = torch.Generator().manual_seed(5)
        assert torch.equal(torch.randn(3, generator=host), expected)
        with pytest.raises(RuntimeError, match=f"but found 'cpu' at {HERE}"):
            torch.randn(3, generator=host, device="cuda")


def test_tensors_of_the_host_may_be_without_data_too() -> None:
    with fake_cuda(meta=True) as card:
        weight = torch.empty(512, 512, device="meta")
        place = torch.empty(512, 512, pin_memory=True)
        place.copy_(weight)
        weight.data = place
        weight.to("cuda", non_blocking=True)
        flag = torch.empty(1, dtype=torch.bool, pin_memory=True)
        assert bool(flag.copy_(torch.ones(1, device="cuda") > 0, non_blocking=True))
    assert [copy.is_pinned for copy in card.copies] == [True, True]


FORBIDDEN: dict[str, Callable[[Tensor], Any]] = {
    "read-back": lambda one: one[0].item(),
    "copy to the host": lambda one: one.cpu(),
    "pageable copy": lambda one: one.copy_(torch.ones(2)),
    "list": lambda one: torch.tensor([1.0, 2.0], device="cuda"),
    "mask": lambda one: one[one > 0],
    "pinning": lambda one: torch.ones(2).pin_memory(),
    "waiting": lambda one: torch.cuda.synchronize(),
    "freeing": lambda one: torch.cuda.empty_cache(),
}


@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
def test_capture_forbids(call: Callable[[Tensor], Any]) -> None:
    with fake_cuda():
        one = torch.ones(2, device="cuda")
        with (
            pytest.raises(CaptureError, match=rf"capturing: .* at {HERE}:\d+"),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            call(one)
        assert not torch.cuda.is_current_stream_capturing()


def test_graph_computes_again_from_its_buffers() -> None:
    with fake_cuda():
        one, graph = torch.ones(2, device="cuda"), torch.cuda.CUDAGraph()
        total = torch.zeros(2, device="cuda")
        with torch.cuda.graph(graph):
            assert torch.cuda.is_current_stream_capturing()
            made = (one * 3).view(2, 1) + 1
            total.add_(one)
        one.fill_(2)
        graph.replay()
        assert made.held.flatten().tolist() == [7, 7]
        assert total.held.tolist() == [3, 3]


def test_memory_follows_what_is_alive() -> None:
    with fake_cuda(total_memory=10 * MIB, meta=True) as card:
        first = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        second = first.clone()
        view = second.view(2, -1)
        assert torch.cuda.memory_allocated() == 8 * MIB
        assert torch.cuda.mem_get_info() == (2 * MIB, 10 * MIB)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(4 * MIB, device="cuda")
        del second
        assert card.memory.now == 8 * MIB
        del view
        assert card.memory.now == 4 * MIB
        assert torch.cuda.max_memory_allocated() == 8 * MIB


def test_launches_are_counted_on_the_card_alone() -> None:
    with fake_cuda(meta=True) as card:
        one = torch.empty(2, 8, 4, 16, dtype=torch.float16, device="cuda")
        torch.ones(3) * 2
        functional.scaled_dot_product_attention(one, one, one).transpose(1, 2) * 2
    counts = card.counter.counts()
    assert (counts.launches, counts.attentions) == (3, 1)


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        pytest.param((7, 5), torch.float16, "efficient", id="Turing, fp16"),
        pytest.param((7, 5), torch.bfloat16, "math", id="Turing, bf16"),
        pytest.param((8, 6), torch.bfloat16, "flash", id="Ampere, bf16"),
        pytest.param((8, 6), torch.float32, "efficient", id="Ampere, float32"),
    ],
)
def test_attention_is_what_a_card_takes(
    capability: tuple[int, int], dtype: torch.dtype, expected: str
) -> None:
    torch.manual_seed(0)
    given = torch.randn(2, 2, 5, 8).to(dtype)
    mask = None if expected == "flash" else torch.randn(2, 1, 1, 5).to(dtype)
    plain = functional.scaled_dot_product_attention(given, given, given, mask)
    with fake_cuda(capability=capability) as card:
        sent = given.to("cuda")
        bias = None if mask is None else mask.to("cuda")
        found = functional.scaled_dot_product_attention(sent, sent, sent, bias).cpu()
    names = [name for name in card.counter.launches if "attention" in name]
    assert (f"_scaled_dot_product_{expected}_attention" in names) == (expected != "math")
    assert (found - plain).abs().max() < 0.02


def test_training_step_is_that_of_the_cpu() -> None:
    def train(device: str) -> list[Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(8, 8).to(device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        given = torch.randn(2, 2, 3, 8).to(device)
        for _ in range(2):
            heads = layer(given)
            out = functional.scaled_dot_product_attention(heads, heads, heads)
            out.square().mean().backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return [one.detach().cpu() for one in layer.parameters()]

    expected = train("cpu")
    with fake_cuda():
        found = train("cuda")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_questions_about_the_card_are_answered() -> None:
    with fake_cuda(capability=(7, 5), total_memory=6 * 10**9):
        assert torch.cuda.is_available()
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
        assert torch.cuda.get_device_capability("cuda") == (7, 5)
        assert torch.cuda.get_device_properties(0).total_memory == 6 * 10**9
        assert torch.cuda.is_bf16_supported()
        assert not torch.cuda.is_bf16_supported(including_emulation=False)
        with torch.cuda.device(0), torch.cuda.stream(torch.cuda.Stream()):
            event = torch.cuda.current_stream().record_event()
        torch.cuda.current_stream().wait_event(event)


@pytest.mark.parametrize("later_is_faster", [False, True])
def test_timings_choose_the_first_or_the_last(later_is_faster: bool) -> None:
    with fake_cuda(later_is_faster=later_is_faster):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = [start.elapsed_time(end) for _ in range(3)]
    assert times == sorted(times, reverse=True)
    assert (times[2] < times[1] < times[0]) == later_is_faster


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    names = [name for name in dir(torch.cuda) if not name.startswith("__")]
    before = {name: getattr(torch.cuda, name) for name in names}
    accelerator = {name: getattr(torch.accelerator, name) for name in dir(torch.accelerator)}
    try:
        with fake_cuda():
            kept = torch.ones(2, device="cuda")
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert {name: getattr(torch.cuda, name) for name in names} == before
    assert {name: getattr(torch.accelerator, name) for name in accelerator} == accelerator
    assert not torch.cuda.is_available()
    assert torch.ones(2).device.type == "cpu"
    with pytest.raises(RuntimeError, match="no longer there"):
        kept + 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2, device="cuda")
