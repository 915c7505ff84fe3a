"""Weights in four bits, against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latte_core.text.four_bits import (
    BYTES_PER_NUMBER,
    FourBitLinear,
    FourBits,
    dequantise_groups,
    group_size,
    quantise_groups,
)


def matrix(rows: int, columns: int) -> Tensor:
    """Normal numbers whose rows differ in size by factors up to a million."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, generator=draws) * torch.logspace(-4, 2, rows)[:, None]


def each_scale(scales: Tensor, columns: int) -> Tensor:
    """Scales (N, K/G) for every number (N, K), as magnitudes."""
    return scales.float().abs().repeat_interleave(columns // scales.shape[1], dim=1)


@pytest.mark.parametrize(("columns", "size"), [(64, 32), (48, 16), (4096, 32), (10240, 32)])
def test_numbers_come_back_within_half_a_step(columns: int, size: int) -> None:
    weight = matrix(24, columns)
    values, scales = quantise_groups(weight)
    assert (values.dtype, tuple(values.shape)) == (torch.uint8, (24, columns // 2))
    assert (scales.dtype, tuple(scales.shape)) == (torch.bfloat16, (24, columns // size))
    assert group_size(columns) == size and FourBits(values, scales).is_sound
    error = (dequantise_groups(values, scales, torch.float32) - weight).abs()
    steps = error / each_scale(scales, columns)
    assert float(steps.max()) <= 0.5 * (1 + 1e-6)
    assert float(steps.max()) > 0.45, "the range is used to its ends"


@pytest.mark.parametrize("sign", [1, -1])
def test_whole_steps_in_the_full_range_come_back_exactly(sign: int) -> None:
    # -8.5 .. 7.5 steps of 0.5 make the scale; the codes in between are then exact
    codes = torch.cat([torch.tensor([-8.5, 7.5]), torch.arange(-8, 8).float()]).repeat(2)[:32]
    weight = (sign * 0.5 * codes)[None]
    values, scales = quantise_groups(weight)
    assert scales.tolist() == [[sign * 0.5]]
    found = dequantise_groups(values, scales, torch.float32)
    inside = codes.abs() != 8.5
    inside &= codes != 7.5
    assert torch.equal(found[0, inside], weight[0, inside])
    assert found[0, :2].tolist() == [sign * -4.0, sign * 3.5]


def test_two_columns_half_a_row_apart_share_a_byte() -> None:
    codes = torch.tensor([[-8.0, 7.0] * 8 + [3.0, -1.0] * 8])
    weight = codes * 0.25
    values, scales = quantise_groups(weight)
    stored = (weight / scales.float()).round() + 8
    assert torch.equal((values & 15).float(), stored[:, :16])
    assert torch.equal((values >> 4).float(), stored[:, 16:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unpacking_rounds_once(dtype: torch.dtype) -> None:
    values, scales = quantise_groups(matrix(24, 64))
    exact = dequantise_groups(values, scales, torch.float64)
    assert torch.equal(dequantise_groups(values, scales, dtype), exact.to(dtype))


@pytest.mark.parametrize("size", [0.0, 1e-37, 1e30])
def test_groups_of_zeros_and_of_extreme_numbers_are_kept(size: float) -> None:
    weight = torch.linspace(-1, 1, 32)[None] * size
    values, scales = quantise_groups(weight)
    found = dequantise_groups(values, scales, torch.float32)
    assert bool((scales != 0).all()) and bool(found.isfinite().all())
    assert float((found - weight).abs().max()) <= size / 15 * 1.01


def test_four_bits_are_closer_than_their_range_alone_would_make_them() -> None:
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(1))
    values, scales = quantise_groups(weight)
    error = (dequantise_groups(values, scales, torch.float32) - weight).square().mean().sqrt()
    symmetric = weight.unflatten(1, (-1, 32)).abs().amax(2) / 7
    plain = (symmetric.square().mean() / 12).sqrt()  # an error spread evenly over a step
    assert 0.07 < float(error) < 0.9 * float(plain)


def test_a_layer_keeps_no_copy_of_its_weight_and_its_numbers_through_casts() -> None:
    plain = nn.Linear(64, 48)
    layer = FourBitLinear.of(plain)
    assert not list(layer.state_dict()) or set(layer.state_dict()) == {"bias"}
    held = [one for one in (*layer.buffers(), *layer.parameters()) if one is not layer.bias]
    num_bytes = sum(one.numel() * one.element_size() for one in held)
    assert num_bytes == 64 * 48 * BYTES_PER_NUMBER
    values = layer.values.clone()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.values, values) and layer.scales.dtype == torch.bfloat16
    assert layer.weight is not None and layer.weight.dtype == torch.bfloat16
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = hidden @ layer.unpacked(torch.bfloat16).t() + plain.bias.bfloat16()
    assert torch.allclose(layer(hidden), expected, atol=0.02)
    layer.to(torch.float16)
    assert layer.scales.dtype == torch.bfloat16
    layer.to("meta")
    assert layer.values.is_meta and layer.values.dtype == torch.uint8


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (torch.zeros(4, 16), torch.ones(4, 1, dtype=torch.bfloat16)),
        (torch.zeros(4, 16, dtype=torch.uint8), torch.ones(4, 1)),
        (torch.zeros(4, 16, dtype=torch.uint8), torch.ones(4, 2, dtype=torch.bfloat16)),
        (torch.zeros(4, 5, dtype=torch.uint8), torch.ones(4, 1, dtype=torch.bfloat16)),
        (torch.zeros(4, dtype=torch.uint8), torch.ones(4, 1, dtype=torch.bfloat16)),
    ],
)
def test_tensors_of_another_type_or_size_are_no_four_bits(values: Tensor, scales: Tensor) -> None:
    assert not FourBits(values, scales).is_sound
