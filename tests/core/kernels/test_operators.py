"""Fused kernels give what torch's operators give: in Triton's interpreter, and on a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "support" / "kernels" / "operators.py"
PAIR = {"linear_gelu": 2, "attend_across_frames": 1}  # of blocks, besides norms and sums

if find_spec("triton") is None:
    pytest.skip("Triton is not installed (Linux x86_64 only)", allow_module_level=True)


def test_operators_equal_torch_in_float32(report: dict[str, Any], device: str) -> None:
    # torch may sum products in another order on a GPU
    allowed = 1e-5 if device == "cpu" else 1e-4
    cases = report["operators"]["float32"]
    assert len(cases) >= 33  # on a GPU up to six are too large in float32
    assert {name: one for name, one in cases.items() if not one["relative"] <= allowed} == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_operators_round_no_worse_than_torch_in_16_bits(
    report: dict[str, Any], device: str, dtype: str
) -> None:
    # a GPU's torch rounds as seldom in attention, and weights of 16 bits meet the values there
    allowed = 1.001 if device == "cpu" else 1.1
    cases = report["operators"][dtype]
    worse = {
        name: one for name, one in cases.items() if not one["kernel"] <= allowed * one["torch"]
    }
    assert worse == {}


def test_operators_with_two_roundings_less_are_closer_than_torch(report: dict[str, Any]) -> None:
    cases = report["operators"]["bfloat16"]
    for name in ("norm 3x5x1152, 3 rows", "linear 67x300x144, tile 0"):
        assert cases[name]["kernel"] < 0.95 * cases[name]["torch"]


@pytest.mark.parametrize("way", ["plain", "as sampled", "hook around blocks", "single frame"])
def test_model_with_kernels_equals_the_one_without(
    report: dict[str, Any], device: str, way: str
) -> None:
    figures = report["models"][way]
    assert figures["float32"]["relative"] <= (1e-5 if device == "cpu" else 1e-3)
    assert figures["float32"]["relative"] > 0  # another order of sums somewhere
    assert figures["bfloat16"]["kernel"] <= 1.02 * figures["bfloat16"]["torch"]


@pytest.mark.parametrize(
    ("way", "norms", "sums", "sums_with_norms"),
    [
        # 11 sums, of which one in each pair has no norm, nor has that before the temporal table
        pytest.param("plain", 2, 1 + 2, 8 - 1, id="plain"),
        # the half batch meets its text by a sum of torch's
        pytest.param("as sampled", 3, 1 + 2, 8 - 2, id="as sampled"),
        # sums at the end of pairs are taken before the hook sees the tokens
        pytest.param("hook around blocks", 5, 1 + 2 + 3, 8 - 1 - 3, id="hook around blocks"),
        # no temporal table
        pytest.param("single frame", 1, 2, 8, id="single frame"),
    ],
)
def test_model_calls_kernels_wherever_they_fit(
    report: dict[str, Any], way: str, norms: int, sums: int, sums_with_norms: int
) -> None:
    expected = {name: 2 * count for name, count in PAIR.items()}
    expected |= {"modulated_norm": norms, "gated_sum": sums, "gated_sum_norm": sums_with_norms}
    if way == "single frame":
        del expected["attend_across_frames"]
    for dtype in ("float32", "bfloat16"):
        assert report["models"][way][dtype]["calls"] == expected


@pytest.mark.parametrize(
    "name",
    ["modulated_norm", "gated_sum", "gated_sum_norm", "linear_gelu", "attend_across_frames"],
)
def test_operator_stands_whole_in_a_compiled_graph(report: dict[str, Any], name: str) -> None:
    assert report["compiled"][name] <= 1e-6
