"""Feed-forward layers that take some tokens at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.model.layers import FeedForward, in_parts, set_feed_forward_rows

TOKENS = 2 * 3 * 6  # of the calls below


def call(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    return model(latents, torch.tensor([500]), torch.randn(2, 5, 24, generator=generator))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7, TOKENS - 1, TOKENS, 10 * TOKENS, None])
def test_any_number_of_rows_gives_the_same_but_for_rounding(rows: int | None) -> None:
    model = tiny_model()
    expected = call(model)
    set_feed_forward_rows(model, rows)
    assert (call(model) - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
def test_no_call_of_the_inner_layer_gets_more_rows_than_asked_for() -> None:
    model, seen = tiny_model(), list[int]()
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.net[2].register_forward_pre_hook(
                lambda _, given: seen.append(given[0].numel() // given[0].shape[-1])
            )
    call(model)
    assert set(seen) == {TOKENS}
    seen.clear()
    set_feed_forward_rows(model, 10)
    call(model)
    assert max(seen) == 10
    assert sum(seen) == TOKENS * 2 * model.config.num_layers


@torch.no_grad()
def test_class_models_work_in_parts_too() -> None:
    model = tiny_latte()
    latents = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    given = latents, torch.tensor([7, 500]), torch.tensor([0, 1])
    expected = model(*given)
    set_feed_forward_rows(model, 5)
    calls: list[int] = []
    model.blocks[0].mlp.fc1.register_forward_pre_hook(lambda _, x: calls.append(len(x[0])))
    assert (model(*given) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert max(calls) == 5


def test_gradients_see_all_rows_at_once() -> None:
    seen: list[int] = []
    layer = nn.Linear(4, 4)

    def apply(part: Tensor) -> Tensor:
        seen.append(len(part))
        return layer(part)

    in_parts(apply, torch.ones(6, 4), 2).sum().backward()
    assert seen == [6]
    with torch.no_grad():
        in_parts(apply, torch.ones(6, 4), 2)
    assert seen == [6, 2, 2, 2]
