"""Class models give with fused kernels what they give without: in Triton's interpreter and on GPUs.

One process measures all cases; see `tests/support/kernels/class_models.py`.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "support" / "kernels" / "class_models.py"
KINDS = ("class", "unconditional")

if find_spec("triton") is None:
    pytest.skip("Triton is not installed (Linux x86_64 only)", allow_module_level=True)


def calls(norms: int, *, alone: int, sums: int, attentions: int, blocks: int = 4) -> dict[str, int]:
    """Return the calls of a pass with `norms` norms, `alone` of which follow no sum."""
    counts = {
        "modulated_norm": alone,
        "gated_sum_norm": norms - alone,
        "gated_sum": sums,
        "attend_across_frames": attentions,
        "linear_gelu": blocks,
    }
    return {name: count for name, count in counts.items() if count}


# Two norms in each of four blocks, three in each of variant 3, and one at the end. No sum is owed
# to the first; that in front of the temporal table is taken alone.
ONE_ATTENTION = calls(9, alone=2, sums=1, attentions=2)
SPLIT = calls(13, alone=2, sums=1, attentions=4)
PARALLEL = calls(9, alone=1, sums=0, attentions=4)  # the table is added before the first block
BY_VARIANT = {1: ONE_ATTENTION, 2: ONE_ATTENTION, 3: SPLIT, 4: PARALLEL}
EXPECTED: dict[str, dict[str, int]] = {
    **{f"variant {n}, {kind}": BY_VARIANT[n] for n, kind in product(BY_VARIANT, KINDS)},
    **{f"variant {n}, one video": BY_VARIANT[n] for n in (1, 4)},
    "image model": calls(9, alone=1, sums=0, attentions=0),
    "no temporal attention": calls(5, alone=1, sums=0, attentions=0, blocks=2),
    # the hook is given whole tokens: a sum at the end of each pair, and a norm alone behind it
    "hook around blocks": calls(9, alone=4, sums=3, attentions=2),
    "attention of a host": calls(9, alone=2, sums=1, attentions=0),
    "rotary": calls(9, alone=1, sums=0, attentions=0),  # no table
    "tokens": calls(0, alone=0, sums=8, attentions=2),  # nothing is modulated
}
# Images behind a clip cut it out of their rows in each temporal block, so that torch does much.
ATTENTIONS_ALONE = ("clip with images", "images with labels")


def test_every_case_is_measured(report: dict[str, Any]) -> None:
    assert set(report) == {*EXPECTED, *ATTENTIONS_ALONE}


@pytest.mark.parametrize("case", [*EXPECTED, *ATTENTIONS_ALONE])
def test_class_model_with_kernels_equals_the_one_without(
    report: dict[str, Any], device: str, case: str
) -> None:
    figures = report[case]
    # torch may multiply in another precision on a GPU
    assert 0 < figures["float32"]["relative"] <= (1e-5 if device == "cpu" else 1e-3)
    assert figures["bfloat16"]["kernel"] <= 1.03 * figures["bfloat16"]["torch"]


@pytest.mark.parametrize("case", [f"variant {n}, {kind}" for n, kind in product(BY_VARIANT, KINDS)])
def test_class_model_with_kernels_rounds_less_in_bfloat16(
    report: dict[str, Any], case: str
) -> None:
    figures = report[case]["bfloat16"]
    assert figures["kernel"] < 0.99 * figures["torch"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", EXPECTED)
def test_class_model_calls_kernels_wherever_they_fit(
    report: dict[str, Any], case: str, dtype: str
) -> None:
    assert report[case][dtype]["calls"] == EXPECTED[case]


@pytest.mark.parametrize("case", ATTENTIONS_ALONE)
def test_clip_in_front_of_images_still_attends_by_the_kernel(
    report: dict[str, Any], case: str
) -> None:
    made = report[case]["float32"]["calls"]
    assert (made["attend_across_frames"], made["linear_gelu"]) == (2, 4)
