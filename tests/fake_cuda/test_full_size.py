"""Latte-1 at full size on a card without data: launches, bytes and peaks as gates.

16 frames of 512 x 512, two videos as under guidance, 20 tokens of text, bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from latte_fake_cuda import Card, fake_cuda
from latte_fake_cuda.counting import full_size, rules
from torch import Tensor

from latte_core.config.latte import LatteConfig
from latte_core.devices import pick_dtype
from latte_core.kernels.choice import KernelSet, KernelUse
from latte_core.memory import PRESETS, STREAMED, MemoryPlan, Stages, stage_bytes
from latte_core.memory.estimate import SPARE, Choice, PartSizes
from latte_core.model.latte.transformer import Latte
from latte_core.model.layers import set_feed_forward_rows
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.precision.quantize import quantize

pytestmark = pytest.mark.fake_cuda
MIB, GB = 2**20, 10**9
BATCH, FRAMES, CELLS, TOKENS = 2, 16, 64, 20
ROWS = BATCH * FRAMES * (CELLS // 2) ** 2
TORCH, KERNELS = KernelUse.NEVER, KernelUse.ALWAYS


PRODUCTS = ("_int_mm", "_scaled_mm")  # matrix products, wherever else they are counted


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one pass of the transformer took.

    Args:
        launches: operators that are no views.
        other_gb: 10^9 bytes moved beside matrix products and attention.
        peak: MiB alive at once beside weights and inputs.
        copies, read_backs: between host and card.
    """

    launches: int
    other_gb: float
    peak: float
    copies: int
    read_backs: int


def transformer(use: KernelUse, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return Latte-1's transformer without data."""
    with torch.device("meta"):
        model = LatteT2V.from_config(full_size().LATTE_1, dtype=dtype)
    model.kernels = KernelSet(use)
    return model.eval().requires_grad_(False)


def given(model: Any, dtype: torch.dtype = torch.bfloat16) -> tuple[tuple[Any, ...], Any]:
    """Return the arguments of a pass as the pipeline calls it under guidance."""
    latents = torch.empty(BATCH, 4, FRAMES, CELLS, CELLS, dtype=dtype, device="cuda")
    context = torch.empty(BATCH, TOKENS, full_size().TEXT_WIDTH, dtype=dtype, device="cuda")
    more = {
        "text": model.project_text(context),
        "places": model.place_tables(latents.shape, "cuda"),
        "shared_input": True,
        "noise_only": True,
    }
    return (latents, torch.zeros(1, dtype=torch.int64, device="cuda")), more


@contextmanager
def pass_of(card: Card) -> Iterator[list[Found]]:
    """Yield a list that holds what was done inside the block, afterwards."""
    before, alive = totals(card), card.memory.now
    done = len(card.copies), len(card.read_backs)
    card.memory.peak = alive
    found: list[Found] = []
    yield found
    after = totals(card)
    found.append(
        Found(
            launches=int(after[0] - before[0]),
            other_gb=after[1] - before[1],
            peak=(card.memory.peak - alive) / MIB,
            copies=len(card.copies) - done[0],
            read_backs=len(card.read_backs) - done[1],
        )
    )


def totals(card: Card) -> tuple[float, float]:
    """Return launches so far, and 10^9 bytes beside matrix products and attention."""
    counts = card.counter.counts()
    apart = [name for name in PRODUCTS if name not in rules().GEMMS]
    return counts.launches, counts.other_gb - sum(card.counter.bytes[name] for name in apart) / 1e9


@cache
@torch.no_grad()
def measure(
    use: KernelUse,
    *,
    precision: str | None = None,
    is_fused: bool = False,
    rows: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    capability: tuple[int, int] = (9, 0),
) -> Found:
    """Return what a pass takes.

    Args:
        use: of the fused kernels.
        precision: int8 or fp8.
        is_fused: queries, keys and values in one product.
        rows: tokens at a time in feed-forward layers.
        dtype: of the weights.
        capability: of the card.
    """
    model = transformer(use, dtype)
    if is_fused:
        with torch.device("meta"):
            fuse_qkv(model)
    set_feed_forward_rows(model, rows)
    # of several products in eight bits the last is the pack's own
    with fake_cuda(meta=True, capability=capability, later_is_faster=True) as card:
        model.to("cuda")
        if precision is not None:
            quantize(model, precision)
        places, options = given(model, dtype)
        with pass_of(card) as found:
            out = model(*places, **options)
        assert out.is_cuda
    return found[0]


def test_pass_with_kernels_stays_within_its_gates() -> None:
    found = measure(KERNELS)
    assert found.launches <= 655
    assert found.other_gb <= 41
    assert found.peak <= 793.5
    assert (found.copies, found.read_backs) == (0, 0)


def test_pass_of_torch_stays_within_its_gates() -> None:
    found = measure(TORCH)
    assert found.launches <= 820
    assert found.other_gb <= 83.5
    assert found.peak <= 901
    assert (found.copies, found.read_backs) == (0, 0)


def test_fused_qkv_spares_launches_and_no_memory() -> None:
    found = measure(KERNELS, is_fused=True)
    assert found.launches <= 540
    assert found.peak <= 800


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_pass_in_eight_bits_stays_within_its_gates(precision: str) -> None:
    found = measure(KERNELS, precision=precision)
    assert found.other_gb <= 80
    assert found.launches <= 950
    assert found.peak <= 900
    assert (found.copies, found.read_backs) == (0, 0)


def test_feed_forward_in_parts_saves_memory_with_kernels_too() -> None:
    assert measure(KERNELS, rows=ROWS // 8).peak <= 614


def test_feed_forward_in_parts_saves_memory() -> None:
    assert measure(TORCH, rows=ROWS // 8).peak <= 614


def test_turing_computes_in_float16() -> None:
    with fake_cuda(capability=(7, 5), meta=True):
        assert pick_dtype(torch.device("cuda"), is_small=False) is torch.float16
    with fake_cuda(capability=(8, 6), meta=True):
        assert pick_dtype(torch.device("cuda"), is_small=False) is torch.bfloat16


@pytest.mark.parametrize("plan", PRESETS.values(), ids=lambda plan: plan.name)
def test_transformer_fits_its_preset_and_what_is_reckoned(plan: MemoryPlan) -> None:
    model = transformer(TORCH)
    size = sum(one.numel() * one.element_size() for one in model.parameters())
    set_feed_forward_rows(model, plan.feed_forward_rows)
    reckoned = stage_bytes(plan, sizes_of(size))["sampling"]
    with torch.no_grad(), fake_cuda(meta=True, total_memory=int(plan.name) * GB) as card:
        stages = Stages(Choice(plan=plan, reason="asked for"), torch.device("cuda"))
        if plan.keeps_all:
            model.to("cuda")
        with stages.run():
            stages.use(model, plan.transformer)
            places, options = given(model)
            model(*places, **options)
            card.next_step()
            if plan.transformer == STREAMED:  # the others bring nothing in their passes
                model(*places, **options)
        assert card.memory.peak <= int(plan.name) * GB
        assert card.memory.peak <= reckoned / SPARE
    assert card.step_table()[1].pageable_copies == 0, card.report()


def sizes_of(transformer_bytes: int) -> PartSizes:
    """Return the sizes of a model whose other parts take nothing."""
    return PartSizes(
        text=0,
        transformer=transformer_bytes,
        vae=0,
        text_blocks=24,
        transformer_blocks=28,
        text_rest=0,
        tokens=ROWS,
        width=1152,
        itemsize=2,
        num_frames=FRAMES,
        height=8 * CELLS,
        frame_width=8 * CELLS,
    )


def test_step_of_the_pipeline_adds_little_to_the_pass() -> None:
    model = transformer(KERNELS)
    alone = measure(KERNELS)
    text = torch.zeros(1, TOKENS, full_size().TEXT_WIDTH)
    launches: list[int] = []
    with fake_cuda(meta=True) as card:

        def note(_: Any) -> None:
            card.next_step()
            launches.append(card.counter.counts().launches)

        made = Pipeline(model.to("cuda"))(
            None,
            prompt_embeds=text,
            negative_embeds=text,
            num_steps=3,
            output="latents",
            callback=note,
        )
        assert isinstance(made.latents, Tensor)
        steps = [after - before for before, after in zip(launches, launches[1:], strict=False)]
        assert max(steps) <= 1.05 * alone.launches
        rows = card.step_table()[1:-1]
    assert [row.pageable_copies for row in rows] == [0] * len(rows), card.report()
    assert [row.read_backs for row in rows] == [0] * len(rows), card.report()


@torch.no_grad()
@pytest.mark.parametrize(("use", "launches", "other_gb"), [(TORCH, 470, 12.5), (KERNELS, 315, 4.5)])
def test_pass_of_class_model_stays_within_its_gates(
    use: KernelUse, launches: int, other_gb: float
) -> None:
    config = LatteConfig.preset("Latte-XL/2", conditioning="class", num_classes=101)
    with torch.device("meta"):
        model = Latte.from_config(config, dtype=torch.bfloat16).eval()
    model.kernels = KernelSet(use)
    with fake_cuda(meta=True) as card:
        model.to("cuda")
        latents = torch.empty(2, 4, FRAMES, 32, 32, dtype=torch.bfloat16, device="cuda")
        times, labels = (torch.zeros(2, dtype=torch.int64, device="cuda") for _ in range(2))
        model(latents, times, labels)  # makes its tables
        with pass_of(card) as found:
            model(latents, times, labels)
    assert found[0].launches <= launches
    assert found[0].other_gb <= other_gb
