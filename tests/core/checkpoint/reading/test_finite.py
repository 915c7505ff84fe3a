"""NaN and Inf are found wherever they stand; finite numbers pass, also where their sum is not."""

from __future__ import annotations

import pytest
import torch

from latte_core.checkpoint.reading.finite import CHUNK, is_finite

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_largest_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    numbers = torch.full((3, 1000), torch.finfo(dtype).max, dtype=torch.float64)
    assert is_finite(numbers.to(dtype))
    assert is_finite(torch.cat([numbers, -numbers]).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=str)
@pytest.mark.parametrize("place", [0, 1234, CHUNK, CHUNK + 7])
@pytest.mark.parametrize("wrong", [[float("nan")], [float("inf")], [float("inf"), -float("inf")]])
def test_a_number_that_is_not_finite_is_found(
    dtype: torch.dtype, place: int, wrong: list[float]
) -> None:
    numbers = torch.zeros(CHUNK + 10, dtype=dtype)
    assert is_finite(numbers)
    numbers[place : place + len(wrong)] = torch.tensor(wrong, dtype=dtype)
    assert not is_finite(numbers)
