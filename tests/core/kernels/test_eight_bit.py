"""Eight-bit kernels give what torch's path gives: in Triton's interpreter, and on a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.processors import int8_is_exact

from latte_core.kernels.rows import Rows, Sums, viewed

SCRIPT = Path(__file__).resolve().parents[2] / "support" / "kernels" / "eight_bit.py"
NEAR = 1e-3  # what rows of other bits would pass by far

if find_spec("triton") is None:
    pytest.skip("Triton is not installed (Linux x86_64 only)", allow_module_level=True)


def test_rows_are_rounded_as_torchs_path_rounds_them_bit_for_bit(report: dict[str, Any]) -> None:
    cases = report["rows"]
    assert len(cases) == 2 * (3 * 2 + 2)
    assert [name for name, is_same in cases.items() if not is_same] == []


def test_products_and_scaled_sums_are_those_of_the_numbers(report: dict[str, Any]) -> None:
    cases = report["products"]
    assert len(cases) == 2 * 2 * (4 + 1) + 6
    assert {name: error for name, error in cases.items() if not error <= NEAR} == {}


EXACT_INT8 = pytest.mark.skipif(not int8_is_exact(), reason="int8 sums overflow on this processor")


@pytest.mark.parametrize(
    "way", ["fp8 triton", "int8 triton", pytest.param("int8 int_mm", marks=EXACT_INT8)]
)
def test_a_model_by_kernels_is_the_one_by_torchs_path(report: dict[str, Any], way: str) -> None:
    # sums of float32 in another order move a token over the edge of a rounding now and then
    assert 0 < report["models"][way]["relative"] <= NEAR


# Two pairs of blocks. What enters the projections behind attention, queries of the text and the
# second half of the feed-forward layer is quantised alone, and keys and values of the text once.
COMMON = {"token_rows": 2 * (6 + 2), "norm_rows": 3, "gated_sum_norm_rows": 5, "gated_sum_norm": 1}
COMMON |= {"attend_across_frames": 2}


@pytest.mark.parametrize(
    ("way", "more"),
    [
        pytest.param("fp8 triton", {"eight_bit_linear": 32, "gated_sum": 3}, id="fp8"),
        pytest.param("int8 triton", {"eight_bit_linear": 24, "gated_sum": 3}, id="fused"),
        # queries, keys and values are fused for it: what attention reads is scaled by a pass
        pytest.param("int8 int_mm", {"scaled_sums": 12, "gated_sum_of_sums": 3}, id="sums"),
    ],
)
def test_norms_and_gelu_hand_their_rows_to_the_next_layer(
    report: dict[str, Any], way: str, more: dict[str, int]
) -> None:
    assert report["models"][way]["calls"] == COMMON | more


def test_operators_stand_whole_in_a_compiled_graph(report: dict[str, Any]) -> None:
    assert len(report["compiled"]) == 6
    assert set(report["compiled"].values()) == {0.0}


def test_rows_and_sums_are_regrouped_as_tensors_are() -> None:

    total = torch.empty(6, 4, dtype=torch.int32)
    assert viewed(total, (2, -1, 4)) == total.view(2, -1, 4).shape
    assert viewed(total, (3, 2, 4)) == total.view(3, 2, 4).shape
    rows = Rows(total.to(torch.int8), torch.ones(6, 1), total.shape, torch.float32)
    assert rows.view(-1, 3, 4).shape == (2, 3, 4)
    scales = torch.ones(4, 1)
    assert Sums(total, rows.scales, scales, None, total.shape, torch.half).view(6, 4).shape == (
        6,
        4,
    )
