"""Gradients of attention over a few rows: those of torch's attention, some heads at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latte_core.model import short_attention
from latte_core.model.attention import attend
from latte_core.model.short_attention import attend_with_products, gains_from_products, parts_of

Layout = Callable[[int, int, int, int], Tensor]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def grads_of(attend: Callable[..., Tensor], parts: list[Tensor], seed: int = 9) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in parts]
    made = attend(*leaves)
    return list(torch.autograd.grad(made, leaves, draw(*made.shape, seed=seed, dtype=made.dtype)))


@pytest.mark.parametrize("at_once", [1, 3, 4, 4096])
@pytest.mark.parametrize("rows", [(1, 1), (5, 5), (3, 7)])
def test_gradients_are_those_of_torch(
    at_once: int, rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_attention, "HEADS_AT_ONCE", at_once)
    q = draw(2, rows[0], 5, 6, seed=1).transpose(1, 2)  # heads lie inside of rows, as in a model
    k, v = (draw(2, rows[1], 5, 6, seed=seed).transpose(1, 2) for seed in (2, 3))

    def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_with_products(plain, q, k, v)

    assert torch.equal(products(q, k, v), plain(q, k, v))
    for found, expected in zip(
        grads_of(products, [q, k, v]), grads_of(plain, [q, k, v]), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_in_bfloat16_are_rounded_once() -> None:
    exact = [draw(3, 4, 16, 8, seed=seed, dtype=torch.bfloat16).double() for seed in (1, 2, 3)]

    def products(*parts: Tensor) -> Tensor:
        return attend_with_products(plain, *parts)

    found = grads_of(products, [one.bfloat16() for one in exact])
    grad = draw(3, 4, 16, 8, seed=9, dtype=torch.bfloat16).double()
    leaves = [one.requires_grad_() for one in exact]
    for one, wanted in zip(found, torch.autograd.grad(plain(*leaves), leaves, grad), strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one - wanted).abs().max() / wanted.abs().max()) < 2**-8


@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (3, 5), (2, 4096), (1, 10_000), (5000, 16)])
def test_parts_cover_every_head_once(batch: int, heads: int) -> None:
    seen = torch.zeros(batch, heads)
    for part in parts_of(batch, heads):
        assert seen[part].numel() <= short_attention.HEADS_AT_ONCE
        seen[part] += 1
    assert bool((seen == 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_keeps_its_own_gradients(dtype: torch.dtype) -> None:
    q, k, v = (draw(1, 4, 2, 8, seed=seed, dtype=dtype).requires_grad_() for seed in (1, 2, 3))
    assert not gains_from_products(q, k, v)
    names = {node.name() for node, _ in attend(q, k, v).grad_fn.next_functions[0][0].next_functions}
    assert not any("ShortAttention" in name for name in names)
