"""How eight-bit layers multiply on a device: what is tried, timed, said, and fallen back to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.errors import MissingDependencyError
from latte_core.kernels.choice import KernelSet, KernelUse
from latte_core.model.weights.fused_qkv import self_attentions
from latte_core.precision import matmul, processor, quantize, trial
from latte_core.precision.formats import FP8, INT8
from latte_core.precision.linear import FusedQuantisedLinear, QuantisedLinear
from latte_core.precision.matmul import EMULATION, UNPACKING, Backend, is_able, rows_of
from latte_core.precision.settings import apply_precision
from latte_core.precision.trial import Trial, find_backend

CPU = torch.device("cpu")
VNNI = {"avx2": True, "avx512_vnni": True}


class Clock:
    """Says how long calls take, in turn: that in the own type first."""

    def __init__(self, *times: float) -> None:
        self.times = times
        self.asked = 0

    def __call__(self, call: Callable[[], Any]) -> float:
        self.asked += 1
        return self.times[(self.asked - 1) % len(self.times)]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The CPU as a card without Triton; with "product" in the list torch refuses its products."""
    refused: list[str] = []

    def product(rows: Tensor, values: Tensor, *scales: Tensor | None) -> Tensor:
        if "product" in refused:
            raise RuntimeError("not implemented for this build")
        made = rows.float() @ values.float().t()
        if not scales:
            return made.int()
        assert scales[0] is not None and scales[1] is not None
        bias = scales[2] if len(scales) > 2 else None
        return (made * scales[0] * scales[1].t() + (0 if bias is None else bias)).bfloat16()

    def programs() -> None:
        raise MissingDependencyError("Triton does not import.")

    monkeypatch.setattr(matmul, "scaled_product", product)
    monkeypatch.setattr(matmul, "whole_product", product)
    monkeypatch.setattr(trial, "programs", programs)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    return refused


def on_card(layer: nn.Linear, kind: Any, timer: Any) -> Trial:
    """Find a backend as on a card, with tensors of the CPU."""
    return trial.find_on_card(layer, kind, CPU, True, timer)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("kind", [FP8, INT8], ids=lambda kind: kind.name)
def test_eight_bits_are_used_where_a_layer_is_faster_in_them(kind: Any) -> None:
    clock = Clock(2.0, 1.0)
    found = on_card(nn.Linear(32, 48), kind, clock)
    product = "scaled_mm" if kind is FP8 else "int_mm"
    assert (found.backend.name, found.pays) == (product, True)
    assert f"1 ms in {kind.name} ({product})" in found.sentence
    assert "2 ms in float32" in found.sentence


@pytest.mark.usefixtures("card")
def test_a_layer_that_is_no_faster_runs_in_its_own_type_and_that_is_said() -> None:
    found = on_card(nn.Linear(32, 48), INT8, Clock(1.0, 1.0))
    assert (found.backend, found.pays) == (UNPACKING, False)
    assert "saves memory here, but no time" in found.sentence
    assert "1 ms in int8 (int_mm)" in found.sentence and "runs in float32" in found.sentence


class Store(dict[str, int]):
    """Keeps choices as long as a test lives."""

    def load(self, key: str) -> int | None:
        return self.get(key)

    def save(self, key: str, choice: int) -> None:
        self[key] = choice


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("times", [(2.0, 1.0), (1.0, 2.0)], ids=["pays", "does not pay"])
def test_a_later_process_uses_what_an_earlier_one_timed(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, float]
) -> None:
    pytest.importorskip("triton")  # names the version that a choice was made with
    monkeypatch.setattr(trial, "backends", lambda *_: [Backend(name="int_mm", place="cpu")])
    monkeypatch.setattr(trial, "has_programs", lambda: True)
    layer, store, later = nn.Linear(32, 48), Store(), Clock(*reversed(times))
    first = trial.find_on_card(layer, INT8, CPU, True, Clock(*times), store=store)
    found = trial.find_on_card(layer, INT8, CPU, True, later, store=store)
    assert (found.backend, found.pays) == (first.backend, first.pays)
    assert later.asked == 0 and "was timed here before" in found.sentence
    other = trial.find_on_card(nn.Linear(48, 32), INT8, CPU, True, later, store=store)
    assert other.pays is not found.pays  # of another size


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("kind", [FP8, INT8], ids=lambda kind: kind.name)
def test_by_rule_no_clock_is_asked(kind: Any) -> None:
    clock = Clock(1.0, 2.0)
    found = trial.find_on_card(nn.Linear(32, 48), kind, CPU, True, clock, is_timed=False)
    assert found.pays and clock.asked == 0
    assert "by rule" in found.sentence


@pytest.mark.parametrize(("kind", "name"), [(FP8, "scaled_mm"), (INT8, "triton")])
def test_the_rule_takes_the_same_of_all_that_work(kind: Any, name: str) -> None:
    plain = Backend(name="scaled_mm" if kind is FP8 else "int_mm", place="cuda")
    own = [replace(plain, name="triton", with_kernels=True, tile=tile) for tile in range(4)]
    able = [plain, replace(plain, with_kernels=True), *own]
    chosen = {trial.by_rule(some, kind).backend for some in (able, able[::-1])}
    assert [(one.name, one.with_kernels, one.tile) for one in chosen] == [(name, True, 0)]


def test_a_product_that_a_build_lacks_is_left_out(card: list[str]) -> None:
    card.append("product")
    found = on_card(nn.Linear(32, 48), FP8, Clock(2.0, 1.0))
    assert (found.backend, found.pays) == (UNPACKING, False)
    assert "tried with this torch and driver, did not work" in found.sentence


def test_row_wise_fp8_is_asked_by_a_small_product(card: list[str]) -> None:
    assert is_able(FP8, CPU) and is_able(INT8, CPU)
    card.append("product")
    assert not is_able(FP8, CPU) and not is_able(INT8, CPU)


def test_wrong_products_are_not_used(monkeypatch: pytest.MonkeyPatch, card: list[str]) -> None:
    right = matmul.scaled_product
    monkeypatch.setattr(matmul, "scaled_product", lambda *given: 1.5 * right(*given))
    assert not is_able(FP8, CPU)
    assert not on_card(nn.Linear(32, 48), FP8, Clock(2.0, 1.0)).pays


def test_lack_of_memory_is_not_taken_for_a_missing_product(
    monkeypatch: pytest.MonkeyPatch, card: list[str]
) -> None:
    def greedy(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(matmul, "scaled_product", greedy)
    with pytest.raises(torch.OutOfMemoryError):
        on_card(nn.Linear(32, 48), FP8, Clock(2.0, 1.0))
    with pytest.raises(torch.OutOfMemoryError):
        is_able(FP8, CPU)


def test_older_cards_and_those_without_kernels_try_torchs_product_alone(
    monkeypatch: pytest.MonkeyPatch, card: list[str]
) -> None:
    monkeypatch.setattr(trial, "programs", lambda: None)
    ways = trial.backends(INT8, CPU, True)
    assert [one.name for one in ways] == ["int_mm"] * 2 + ["triton"] * 4
    assert [one.with_kernels for one in ways] == [False] + [True] * 5
    assert trial.backends(INT8, CPU, False) == ways[:1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert trial.backends(INT8, CPU, True) == ways[:1]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_vnni": False, "avx_vnni": False}, False),
        ({"avx2": True, "avx_vnni": True}, True),
        ({"amx_int8": True}, True),
        ({"neon": True, "i8mm": True}, True),
        ({"neon": True}, False),
    ],
)
def test_a_processor_is_asked_for_its_int8_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert processor.has_instructions() is expected


def test_sums_that_overflow_and_slow_loops_are_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: VNNI)

    def right(rows: Tensor, values: Tensor) -> Tensor:
        return (rows.float() @ values.float().t()).int()

    def overflows(rows: Tensor, values: Tensor) -> Tensor:
        return right(rows, values).clamp(max=32640)  # what oneDNN gives without VNNI

    for multiply, times, expected in (
        (right, (1.0, 2.0), True),
        (right, (2.0, 1.0), False),
        (overflows, (1.0, 2.0), False),
    ):
        monkeypatch.setattr(processor, "seconds", Clock(*times))
        assert processor.has_int8_product(multiply) is expected


def test_a_processor_without_int8_unpacks_its_weights_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    model = tiny_model()
    with caplog.at_level(logging.INFO, logger="latte"):
        run = apply_precision(model, "int8")
    assert run.product == "unpacked"
    warned = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "no fast and exact int8 product" in warned[0] and "runs in float32" in warned[0]
    layers = [one for one in model.modules() if isinstance(one, QuantisedLinear)]
    assert {one.values.dtype for one in layers} == {torch.int8}
    tokens = torch.randn(3, layers[0].in_features)
    expected = torch.nn.functional.linear(tokens, layers[0].unpacked(torch.float32), layers[0].bias)
    assert torch.equal(layers[0](tokens), expected)


def test_a_processor_with_int8_multiplies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: VNNI)
    monkeypatch.setattr(trial, "has_product", lambda *_: True)
    run = apply_precision(tiny_model(), "int8")
    assert run.product == "int_mm"
    assert run.sentence is not None and "has instructions for them" in run.sentence


def test_fp8_on_a_processor_runs_in_the_type_of_the_run() -> None:
    found = find_backend(nn.Linear(32, 48, dtype=torch.bfloat16), FP8, CPU)
    assert (found.backend, found.pays) == (UNPACKING, False)
    assert "8.9" in found.sentence and "runs in bfloat16" in found.sentence


def test_the_widest_layer_is_tried_once_and_as_the_kernels_of_the_model_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool, bool]] = []

    def find(layer: nn.Linear, *_: Any, with_kernels: bool, is_timed: bool, store: object) -> Trial:
        seen.append((layer.out_features, with_kernels, is_timed))
        return Trial(backend=EMULATION, sentence="Timed.", pays=True)

    monkeypatch.setattr(quantize, "find_backend", find)
    model = tiny_model()
    assert "Timed." in quantize.quantize(model, "int8").sentence
    for use in (KernelUse.NEVER, KernelUse.FIXED):
        other = tiny_model()
        other.kernels = KernelSet(use)
        quantize.quantize(other, "int8")
    assert seen == [(64, True, True), (64, False, True), (64, True, False)]


def test_sums_of_32_bits_bring_fused_queries_keys_and_values() -> None:
    model = tiny_model()
    done = quantize.quantize(model, "int8", backend=Backend(name="int_mm", with_kernels=True))
    layers = [one.to_qkv for one in self_attentions(model).values()]
    assert all(type(one) is FusedQuantisedLinear for one in layers)
    assert (done.product, done.is_native) == ("int_mm", True)


def test_tokens_of_another_device_than_was_tried_are_multiplied_unpacked() -> None:
    plain = nn.Linear(32, 16)
    layer = QuantisedLinear(plain, INT8, backend=Backend(name="triton", place="elsewhere"))
    tokens = torch.randn(4, 32)
    assert layer.row_kind(CPU) is None
    expected = torch.nn.functional.linear(tokens, layer.unpacked(torch.float32), plain.bias)
    assert torch.equal(layer(tokens), expected)


def test_queries_keys_and_values_share_quantised_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    quantize.quantize(model, "int8", backend=EMULATION)
    calls: list[torch.Size] = []

    def counted(tokens: Tensor, *rest: Any) -> Any:
        calls.append(tokens.shape)
        return rows_of(tokens, *rest)

    monkeypatch.setattr("latte_core.precision.linear.rows_of", counted)
    attention = next(iter(self_attentions(model).values()))
    with torch.no_grad():
        attention.project(torch.randn(2, 5, 16), 2)
    assert len(calls) == 1
