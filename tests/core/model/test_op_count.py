"""What a full-size forward pass launches, moves and multiplies, traced without running it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "op_count.py"
TOKENS_GB = 2 * 16 * 1024 * 1152 * 2 / 1e9  # all tokens of two clips in bfloat16


def load_script(path: Path) -> Any:
    """Import a benchmark by file location, with its neighbours by name."""
    spec = importlib.util.spec_from_file_location(f"latte_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    return module


op_count = load_script(SCRIPT)
counting = load_script(SCRIPT.parent / "measuring" / "counting.py")
memory = load_script(SCRIPT.parent / "measuring" / "memory.py")


@cache
def ours(**ways: bool) -> Any:
    """Return the counts of our class at 20 tokens."""
    return op_count.count_ours(20, **ways).counts()


def meta(*size: int) -> torch.Tensor:
    return torch.empty(*size, device="meta")


@pytest.mark.parametrize(
    ("call", "launches", "gemms", "other", "gemm"),
    [
        pytest.param(lambda: meta(4, 8).view(8, 4).T[1:], 1, 0, 128, 0, id="views are free"),
        pytest.param(lambda: meta(4, 8).relu(), 2, 0, 128 + 256, 0, id="one in, one out"),
        pytest.param(lambda: meta(4, 8) + meta(8), 3, 0, 128 + 32 + 288, 0, id="broadcast"),
        pytest.param(lambda: meta(4, 8).add_(1), 2, 0, 128 + 256, 0, id="in place"),
        pytest.param(lambda: meta(4, 8) @ meta(8, 2), 3, 1, 192, 192 + 32, id="product"),
    ],
)
def test_counter_counts_each_mention_of_a_tensor(
    call: Callable[[], Any], launches: int, gemms: int, other: int, gemm: int
) -> None:
    found = op_count.count(call).counts()
    assert (found.launches, found.gemms) == (launches, gemms)
    assert found.other_gb * 1e9 == pytest.approx(other)
    assert found.gemm_gb * 1e9 == pytest.approx(gemm)


def test_counter_takes_attention_for_one_operator_without_bytes() -> None:
    q, k = meta(2, 4, 5, 8), meta(2, 4, 7, 8)
    bias = meta(2, 1, 1, 7)
    found = op_count.count(
        lambda: (
            functional.scaled_dot_product_attention(q, k, k, attn_mask=bias)
            .transpose(1, 2)
            .flatten(2)
        )
    ).counts()
    assert (found.launches, found.attentions) == (1, 1)
    assert found.other_gb == found.gemm_gb == 0
    assert found.tflop * 1e12 == 4 * 2 * 4 * 5 * 7 * 8


def test_counter_reproduces_what_is_known_of_diffusers_class() -> None:
    pytest.importorskip("diffusers")
    found = op_count.count_diffusers(20).counts()
    assert found.other_gb == pytest.approx(158.1, rel=0.02)
    assert found.gemm_gb == pytest.approx(86.9, rel=0.02)
    assert found.launches == pytest.approx(1520, rel=0.02)
    assert found.tflop == pytest.approx(67.897, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_sampling_stays_within_its_bytes_and_launches(fused: bool) -> None:
    found = ours(fused=fused)
    # per pair of blocks: four norms, two GELUs on four times the width, five gated or plain sums
    assert found.other_gb == pytest.approx(28 * (4 * 2 + 2 * 8 + 5 * 3) * TOKENS_GB, rel=0.01)
    assert found.other_gb <= 83.1  # 0.11 of it copies the queries that both halves share
    assert found.launches <= (710 if fused else 820)


def test_fused_projections_spare_two_products_and_two_reads_per_attention() -> None:
    separate, fused = ours(fused=False), ours(fused=True)
    assert separate.gemms - fused.gemms == 56 * 2
    assert separate.gemm_gb - fused.gemm_gb == pytest.approx(56 * 2 * TOKENS_GB, rel=0.02)
    assert fused.tflop == separate.tflop


@pytest.mark.parametrize("as_sampled", [True, False])
def test_kernels_leave_five_sums_of_which_four_bring_the_next_norm(as_sampled: bool) -> None:
    found = ours(as_sampled=as_sampled, fused=True, kernels=True)
    # per pair of blocks: one sum alone, and four whose norm is written in the same pass
    assert found.other_gb == pytest.approx(28 * (3 + 4 * 4) * TOKENS_GB, rel=0.03)
    assert found.other_gb <= 60
    assert found.launches <= 600


def test_kernels_compute_what_torch_does_in_as_many_products() -> None:
    plain, fused = ours(fused=True), ours(fused=True, kernels=True)
    assert (fused.tflop, fused.gemms, fused.attentions) == (
        plain.tflop,
        plain.gemms,
        plain.attentions,
    )
    # their bytes are those of the products they replace: GELU adds none
    assert fused.gemm_gb == plain.gemm_gb
    # every GELU, and every norm: three of the first pair follow no sum, the last layer's does
    assert plain.launches - fused.launches == 28 * 2 + (28 * 4 - 3 + 1)


def test_kernels_work_around_a_hosts_attention() -> None:
    found = ours(as_sampled=False, own_attention=True, kernels=True)
    plain = ours(as_sampled=False, own_attention=True)
    assert found.attentions == plain.attentions
    assert plain.other_gb - found.other_gb == pytest.approx(
        28 * (2 * 8 + 4 * 3) * TOKENS_GB, rel=0.01
    )


def test_timestep_per_video_costs_one_more_pass_at_each_norm() -> None:
    each, shared = ours(as_sampled=False), ours()
    assert each.other_gb <= 102
    assert each.launches <= 930
    assert each.other_gb - shared.other_gb == pytest.approx(112 * 2 * TOKENS_GB, rel=0.05)


def test_host_attention_costs_two_copies_per_temporal_block() -> None:
    own, host = ours(as_sampled=False), ours(as_sampled=False, own_attention=True)
    assert host.launches - own.launches == 56
    assert host.other_gb - own.other_gb == pytest.approx(28 * 4 * TOKENS_GB, rel=0.01)


def test_sampling_with_long_prompts_needs_at_most_68_tflop() -> None:
    assert op_count.count_ours(120).counts().tflop <= 68.0


@cache
def eight_bit(name: str) -> tuple[Any, int]:
    """Return the counts of a way in eight bits at 20 tokens, and its peak in MiB."""
    way = op_count.EIGHT_BIT[name]
    counter, live = counting.OpCounter(), memory.LiveBytes()
    call = op_count.prepare_ours(20, kernels=True, eight_bit=way)
    with counting.AttentionAsOneOp(), counter, live:
        call()
    return counter.counts(), live.peak / 2**20


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("fp8 by our product", 80), ("int8 by our product", 80), ("int8 by _int_mm", 150)],
)
def test_eight_bits_stay_within_their_bytes_launches_and_memory(
    name: str, gigabytes: float
) -> None:
    found, peak = eight_bit(f"ours, {name}")
    assert found.other_gb <= gigabytes
    assert found.launches <= 950
    assert peak <= 900
    # products are as many, or fewer where queries, keys and values are fused
    assert found.tflop == pytest.approx(ours(kernels=True).tflop)
    assert found.gemms <= ours(kernels=True).gemms


def test_norms_in_eight_bits_are_written_once_and_tokens_quantised_once() -> None:
    plain, found = ours(kernels=True), eight_bit("ours, fp8 by our product")[0]
    # per pair of blocks: behind two attentions and before the text, and twice behind GELU
    alone = 6
    assert found.launches - plain.launches == 28 * alone
    # norms write half as much; what is quantised alone is read in 16 bits and written in 8
    more = 28 * (-4 * 0.5 + 4 * 1.5 + 2 * 4 * 1.5) * TOKENS_GB
    assert found.other_gb - plain.other_gb == pytest.approx(more, rel=0.02)


def test_the_report_says_how_each_operator_of_eight_bits_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers, one = meta(64, 32).to(torch.int8), meta(64, 1)
    operators = torch.ops.latte

    def layer() -> None:
        rows, scales = operators.token_rows(meta(64, 32), None, None, None, False, torch.int8)
        total = torch._int_mm(rows, numbers.t())
        operators.scaled_sums(total, scales, one, None, torch.bfloat16)

    op_count.report([("ours, int8 by _int_mm", op_count.count(layer))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {line[0]: (line[-3], line[-1]) for line in lines}
    assert shown["_int_mm"] == ("0.00", "product")
    assert shown["scaled_sums"][1] == shown["token_rows"][1] == "other"
