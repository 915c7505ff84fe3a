"""What the backward pass of attention across frames takes on a card, at full size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from latte_fake_cuda import fake_cuda
from torch import Tensor

from latte_core.model.attention import attend_across_frames, scaled_dot_product

pytestmark = pytest.mark.fake_cuda
BATCH, FRAMES, PLACES, HEADS, WIDTH = 2, 16, 1024, 16, 72  # Latte-1 at 2 x 16 x 512 x 512
PADDED_ROWS, PADDED_WIDTH = 128, 96  # of a head, in the buffer of flash attention's backward pass
MB = 10**6


def tokens() -> list[Tensor]:
    """Return queries, keys and values that gradients are asked of."""
    size = (BATCH, FRAMES * PLACES, HEADS, WIDTH)
    options = {"dtype": torch.bfloat16, "device": "cuda:0"}
    return [torch.empty(size, **options, requires_grad=True) for _ in range(3)]


def in_order(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend as a text-to-video model does."""
    return attend_across_frames(q, k, v, FRAMES)


def by_place(*parts: Tensor) -> Tensor:
    """Attend as a class model does."""
    q, k, v = (
        one.view(BATCH, FRAMES, PLACES, -1).transpose(1, 2).reshape(BATCH * PLACES, FRAMES, -1)
        for one in parts
    )
    return scaled_dot_product(q, k, v, HEADS, kind="temporal")


@pytest.mark.parametrize("attend", [in_order, by_place])
def test_gradients_across_frames_take_an_eighth_of_padded_ones(
    attend: Callable[..., Tensor],
) -> None:
    padded = BATCH * PLACES * HEADS * PADDED_ROWS * PADDED_WIDTH * 4
    assert padded > 1600 * MB
    with fake_cuda(meta=True) as card:
        parts = tokens()
        made = attend(*parts)
        grad = torch.empty_like(made)
        results = sum(one.numel() * one.element_size() for one in parts)
        before = card.memory.now
        card.memory.peak = before
        torch.autograd.backward(made, grad)
        taken = card.memory.peak - before - results
    assert taken < padded / 8 + (results if attend is by_place else 0)
    assert [name for name in card.counter.launches if "backward" in name] == []
