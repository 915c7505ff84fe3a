"""The learning rate of each update, and the average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from latte_core.training.ema import Average
from latte_core.training.learning_rate import rate_at


def test_a_constant_rate_rises_over_the_warm_up_only() -> None:
    rates = [rate_at(step, 10, schedule="constant", warm_up=4) for step in range(10)]
    assert rates == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_without_warm_up_the_first_rate_is_the_whole() -> None:
    assert rate_at(0, 5, schedule="constant", warm_up=0) == 1.0


def test_a_final_decay_falls_in_a_line_to_the_last_update() -> None:
    rates = [rate_at(step, 8, schedule="constant", warm_up=0, final_decay=0.5) for step in range(8)]
    assert rates == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_a_cosine_goes_from_one_to_zero_after_the_warm_up() -> None:
    rates = [rate_at(step, 12, schedule="cosine", warm_up=2) for step in range(12)]
    assert rates[:2] == [0.5, 1.0]
    wanted = [0.5 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    assert rates[2:] == pytest.approx(wanted, abs=1e-15)


def weights(values: list[float]) -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.tensor(values))}


def test_an_average_follows_its_formula_exactly() -> None:
    average = Average(weights([1.0, -2.0]), 0.75)
    average.update(weights([2.0, 2.0]), 0)
    assert average.values["a"].tolist() == [1.25, -1.0]
    average.update(weights([1.25, 3.0]), 1)
    assert average.values["a"].tolist() == [1.25, 0.0]


def test_an_average_with_warm_up_forgets_its_start_sooner() -> None:
    average = Average(weights([0.0]), 0.999, warm_up=True)
    assert [average.decay_at(step) for step in (0, 8, 10**6)] == [0.1, 0.5, 0.999]
    average.update(weights([1.0]), 0)
    assert average.values["a"].item() == pytest.approx(0.9)


def test_an_average_swaps_in_and_out_bit_for_bit() -> None:
    parameters = weights([0.1, 0.2, 0.3])
    average = Average(parameters, 0.9)
    average.update(weights([1.0, 1.0, 1.0]), 0)
    before = parameters["a"].detach().clone()
    averaged = average.values["a"].clone()
    average.swap(parameters)
    assert torch.equal(parameters["a"], averaged)
    average.swap(parameters)
    assert torch.equal(parameters["a"], before)
    assert torch.equal(average.values["a"], averaged)


def test_an_average_does_not_follow_the_tensor_it_was_copied_from() -> None:
    parameters = weights([1.0])
    average = Average(parameters, 0.9)
    with torch.no_grad():
        parameters["a"].fill_(5.0)
    assert average.values["a"].item() == 1.0
