"""The forecast of residuals is exact for the sequences it is made for, however steps are spaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latte_core.acceleration.forecast import ResidualHistory, forecast_weights

PLACES = [980.0, 960.0, 900.0, 880.0]  # unevenly spaced, falling


def sequence(order: int) -> list[Tensor]:
    """Return residuals (2, 3) that are a polynomial of their place."""
    draws = torch.Generator().manual_seed(order)
    parts = torch.randn(order + 1, 2, 3, generator=draws)
    return [
        torch.stack([part * (place / 100) ** k for k, part in enumerate(parts)]).sum(0)
        for place in PLACES
    ]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_forecast_continues_a_polynomial_of_its_order_exactly(order: int) -> None:
    values = sequence(order)
    history = ResidualHistory(order)
    for step, (place, value) in enumerate(zip(PLACES[:-1], values, strict=False)):
        history.put(step, place, value)
    assert (history.at(PLACES[-1]) - values[-1]).abs().max() <= 1e-4 * values[-1].abs().max()


def test_forecast_of_order_one_does_not_follow_a_parabola() -> None:
    values = sequence(2)
    history = ResidualHistory(1)
    for step, (place, value) in enumerate(zip(PLACES[:-1], values, strict=False)):
        history.put(step, place, value)
    assert (history.at(PLACES[-1]) - values[-1]).abs().max() > 0.1


def test_evenly_spaced_weights_are_those_of_backward_differences() -> None:
    # F(k) = F0 + k (F0 - F1) + k (k + 1) / 2 (F0 - 2 F1 + F2), newest last
    for k in (1, 2, 3):
        expected = [k * (k + 1) / 2, -k - k * (k + 1), 1 + k + k * (k + 1) / 2]
        assert forecast_weights([40.0, 20.0, 0.0], -20.0 * k) == pytest.approx(expected)


def test_a_history_is_as_long_as_what_it_has_seen() -> None:
    history = ResidualHistory(2)
    history.put(0, 980.0, torch.ones(1))
    assert torch.equal(history.at(960.0), torch.ones(1))
    history.put(1, 960.0, 2 * torch.ones(1))
    assert history.at(940.0).item() == pytest.approx(3.0)


def test_a_timestep_that_comes_again_takes_the_place_of_the_first() -> None:
    history = ResidualHistory(1)
    history.put(0, 980.0, torch.zeros(1))
    history.put(1, 960.0, torch.full((1,), 7.0))
    history.put(2, 960.0, torch.ones(1))
    assert history.at(940.0).item() == pytest.approx(2.0)
    assert history.newest_step == 2


def test_a_residual_of_another_shape_begins_a_new_history() -> None:
    history = ResidualHistory(1)
    history.put(0, 980.0, torch.zeros(2, 3))
    history.put(1, 960.0, torch.ones(2, 5))
    assert history.fits((2, 5)) and not history.fits((2, 3))
    assert torch.equal(history.at(900.0), torch.ones(2, 5))


def test_sums_of_half_precision_residuals_are_made_in_float32() -> None:
    draws = torch.Generator().manual_seed(0)
    base = torch.randn(4096, generator=draws)
    history = ResidualHistory(2)
    for step, place in enumerate((40.0, 20.0, 0.0)):
        history.put(step, place, base.bfloat16())
    made = history.at(-60.0)  # weights 10, -15 and 6
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, base.bfloat16())
