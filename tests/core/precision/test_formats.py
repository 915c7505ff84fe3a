"""Eight-bit numbers with scales, and products of them, against their closed forms."""

from __future__ import annotations

import pytest
import torch
from latte_test_support.processors import int8_is_exact
from torch import Tensor

from latte_core.kernels.rows import Rows
from latte_core.precision import matmul
from latte_core.precision.formats import (
    FORMATS,
    FP8,
    INT8,
    Format,
    dequantise_rows,
    quantise_rows,
    quantise_tokens,
    quantise_whole,
)
from latte_core.precision.matmul import (
    EMULATION,
    Backend,
    has_product,
    multiply,
    scaled_product,
    whole_product,
)

KINDS = tuple(FORMATS.values())
EXACT_INT8 = pytest.mark.skipif(not int8_is_exact(), reason="int8 sums overflow on this processor")
CPU = torch.device("cpu")


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Normal numbers whose rows differ in size by factors up to a thousand."""
    draws = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 1, rows)[:, None]
    return torch.randn(rows, columns, generator=draws) * sizes


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_row_comes_back_within_half_a_step(kind: Format) -> None:
    weight = matrix(24, 48)
    values, scales = quantise_rows(weight, kind)
    assert (values.dtype, scales.dtype) == (kind.dtype, torch.float32)
    assert values.shape == (24, 48) and scales.shape == (24, 1)
    error = (dequantise_rows(values, scales, torch.float32) - weight).abs()
    # e4m3 has 3 bits behind the first: half a step is 1/16 of a value, 2^-10 below the normal ones
    half = 0.5 * scales if kind is INT8 else weight.abs() / 16 + scales * 2**-10
    assert bool((error <= half * 1.0001).all())
    assert float(error.max()) > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_largest_and_smallest_rows_are_in_range(kind: Format) -> None:
    weight = torch.stack(
        [torch.zeros(32), torch.full((32,), kind.largest), torch.full((32,), 1e-9)]
    )
    values, scales = quantise_rows(weight, kind)
    assert bool(values.float().isfinite().all()) and bool((scales > 0).all())
    assert torch.allclose(dequantise_rows(values, scales, torch.float32), weight, rtol=1 / 16)
    assert not values[0].float().any()


def test_fp8_scales_are_powers_of_two_that_just_fit() -> None:
    weight = torch.tensor([[448.0], [449.0], [1.0], [224.0]])
    _, scales = quantise_rows(weight, FP8)
    assert scales.flatten().tolist() == [1.0, 2.0, 2.0**-8, 0.5]


def test_fp8_that_was_packed_with_one_scale_keeps_its_bits_with_one_for_each_row() -> None:
    values, scale = quantise_whole(matrix(16, 32), FP8)
    assert scale.shape == ()
    once = values.float() * scale
    again, scales = quantise_rows(once, FP8)
    assert torch.equal(dequantise_rows(again, scales, torch.float32), once)


def test_int8_that_was_packed_keeps_its_numbers() -> None:
    values, scales = quantise_rows(matrix(16, 64), INT8)
    again, _ = quantise_rows(dequantise_rows(values, scales, torch.float32), INT8)
    assert torch.equal(again, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_product_is_that_of_the_numbers_and_their_scales(
    kind: Format, dtype: torch.dtype
) -> None:
    tokens, weight = matrix(7, 48, seed=1).to(dtype), matrix(32, 48)
    values, scales = quantise_rows(weight, kind)
    rows, row_scales = quantise_tokens(tokens, kind)
    expected = (rows.double() * row_scales.double()) @ (values.double() * scales.double()).t()
    given = Rows(rows, row_scales, tokens.shape, dtype)
    found = multiply(given, values, scales, None, EMULATION)
    assert (found.shape, found.dtype) == ((7, 32), dtype)
    # sums of float32, rounded once to the type of the tokens
    rounding = max(1e-5, torch.finfo(dtype).eps)
    bound = float(expected.abs().max()) * 1e-6
    assert torch.allclose(found.double(), expected, rtol=rounding, atol=bound)


@EXACT_INT8
def test_whole_numbers_are_summed_as_emulation_sums_them() -> None:
    rows, row_scales = quantise_tokens(matrix(7, 48, seed=1), INT8)
    values, scales = quantise_rows(matrix(32, 48), INT8)
    given = Rows(rows, row_scales, rows.shape, torch.float32)
    bias = torch.arange(32.0)
    found = multiply(given, values, scales, bias, Backend(name="int_mm"))
    assert torch.equal(found, multiply(given, values, scales, bias, EMULATION))


@EXACT_INT8
def test_int8_products_are_exact_at_the_largest_sum() -> None:
    rows, values = torch.full((3, 4608), 127, dtype=torch.int8), torch.full((16, 4608), -127)
    found = whole_product(rows, values.to(torch.int8))
    assert found.dtype == torch.int32 and bool((found == -127 * 127 * 4608).all())


def test_fp8_hardware_product_is_called_as_torch_wants_it() -> None:
    values, scales = quantise_rows(matrix(32, 48), FP8)
    rows, row_scales = quantise_tokens(matrix(7, 48, seed=1), FP8)
    given = [one.to("meta") for one in (rows, values, row_scales, scales)]
    found = scaled_product(*given)  # torch's own checks of shapes, strides, types and scales
    assert (found.shape, found.dtype) == ((7, 32), torch.bfloat16)
    with pytest.raises(RuntimeError, match="caling"):
        scaled_product(*given[:2], given[2][:5], given[3])


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_cpu_multiplies_int8_where_that_is_fast_and_fp8_never(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    monkeypatch.setattr(matmul, "has_int8_product", lambda _: is_fast)
    assert has_product(INT8, CPU) is is_fast
    assert not has_product(FP8, CPU)
    assert not has_product(INT8, torch.device("mps"))
