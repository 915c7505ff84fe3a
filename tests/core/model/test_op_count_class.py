"""What a full-size pass of the class model launches and moves, traced without running it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "benchmarks"
NAMES = ("op_count_class", "ways.training", "measuring.core", "measuring.counting")
ROW_GB = 16 * 256 * 1152 * 2 / 1e9  # all tokens of a video in bfloat16
# Tokens become themselves: the table of places is added in float32 and cast, patches are laid in
# rows, and the table of times is added.
START = 3 + 3 + 2 + 2


@pytest.fixture(scope="module")
def script() -> Generator[Any]:
    """Import the benchmark with its neighbours, and forget them afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module("op_count_class")
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def ours(script: Any) -> Any:
    """Return counts of our class by the rows of the batch and what else was asked for."""
    return cache(lambda rows, **options: script.count_class(rows, **options).counts())


def test_recipe_of_the_authors_costs_what_is_published_of_it(script: Any) -> None:
    found = script.count_recipe(2).counts()
    assert found.tflop == pytest.approx(2 * 3.786, rel=1e-3)  # docs/model.md 14
    assert found.gemms == 28 * (5 + 2) + 5  # with both products of each attention


@pytest.mark.parametrize("rows", [1, 2])
def test_torch_alone_moves_less_than_half_of_the_recipe(script: Any, ours: Any, rows: int) -> None:
    recipe, plain = script.count_recipe(rows).counts(), ours(rows)
    assert plain.other_gb < 0.5 * recipe.other_gb
    # one row of modulation in each block
    assert recipe.tflop - plain.tflop == pytest.approx(rows * 60.2e-3, rel=0.01)


def test_guided_step_stays_within_its_bytes_and_launches(ours: Any) -> None:
    found = ours(2)
    # a norm is two passes, a gated sum one of three tensors; GELU is on four times the width; each
    # of 14 temporal blocks copies its input into the order of places
    passes = START + 57 * (2 + 2) + 56 * 3 + 28 * 8 + 14 * 2
    assert found.other_gb == pytest.approx(passes * 2 * ROW_GB, rel=0.005)
    assert found.other_gb <= 12.5
    assert found.launches <= 463


def test_single_row_is_modulated_within_its_norm(ours: Any) -> None:
    found = ours(1)
    # the copied input of 14 temporal blocks, whose bias is another pass
    passes = START + 57 * 2 + 56 * 3 + 28 * 8 + 14 * (2 + 2 * 3)
    assert found.other_gb == pytest.approx(passes * ROW_GB, rel=0.005)
    assert found.launches <= 419


@pytest.mark.parametrize("rows", [1, 2])
def test_kernels_leave_one_pass_for_each_sum_with_the_norm_behind_it(ours: Any, rows: int) -> None:
    found = ours(rows, kernels=True)
    # two norms follow no sum, and the sum before the table of times has no norm
    passes = START + 2 * 2 + 55 * 4 + 3
    assert found.other_gb == pytest.approx(passes * rows * ROW_GB, rel=0.005)
    assert found.other_gb <= 2.25 * rows
    assert found.launches <= 309


def test_kernels_compute_what_torch_does_in_as_many_products(ours: Any) -> None:
    plain, fused = ours(2), ours(2, kernels=True)
    for name in ("tflop", "gemms", "attentions", "gemm_gb"):
        assert getattr(fused, name) == getattr(plain, name)
    # every GELU, every copy, and with 55 norms their modulation and the sum before them
    assert plain.launches - fused.launches == 28 + 14 + 55 * 2 + 2


@pytest.mark.parametrize("variant", [2, 3, 4])
def test_kernels_serve_every_variant(ours: Any, variant: int) -> None:
    plain, fused = ours(2, variant=variant), ours(2, variant=variant, kernels=True)
    assert (fused.tflop, fused.gemms) == (plain.tflop, plain.gemms)
    assert fused.attentions == plain.attentions
    most = {2: (4.5, 309), 3: (5.5, 351), 4: (5.9, 373)}[variant]
    assert fused.other_gb <= most[0]
    assert fused.launches <= most[1]


def test_model_without_classes_differs_by_its_embedding_alone(ours: Any) -> None:
    plain = ours(2, kernels=True)
    found = ours(2, kernels=True, conditioning="none", num_classes=0)
    assert plain.launches - found.launches == 3  # look-up, its place in a list, and the sum
    assert found.tflop == plain.tflop


def test_attention_of_a_host_costs_two_copies_per_temporal_block(ours: Any) -> None:
    own, host = ours(2, kernels=True), ours(2, kernels=True, own_attention=True)
    assert host.launches - own.launches == 14 * 2
    assert host.other_gb - own.other_gb == pytest.approx(14 * 4 * 2 * ROW_GB, rel=0.01)
