"""Runs on a card that is not there, and what their steps may ask of the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from latte_fake_cuda import Card, StepRow, fake_cuda
from torch import Tensor

from latte_core.acceleration.help import measuring
from latte_core.acceleration.settings import CACHES as KINDS
from latte_core.acceleration.settings import parse_cache
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.run import PipelineResult
from latte_core.pipelines.text.pipeline import Pipeline

from .tiny.pipeline import PROMPT, SMALL

STEPS = 4  # the fewest that every sampler takes
GB = 10**9
CACHES = ("quality", *(kind.spellings[0] for kind in KINDS))
MEASURED = tuple(measuring())  # caches that decide by a change they measure


def settings_of(precision: str | None) -> dict[str, Any]:
    """Return what `from_pretrained` is given for a precision."""
    dtype = torch.float16 if precision == "fp16-acc" else torch.float32
    return {"dtype": dtype, "precision": precision}


def make_text(
    folder: Path,
    card: Card,
    *,
    sampler: str = "ddim",
    memory: str = "24",
    precision: str | None = None,
    cache: str | None = None,
    is_graphed: bool = False,
    **more: Any,
) -> PipelineResult:
    """Make a video of a prompt on the card with torch's own operators."""
    pipeline = Pipeline.from_pretrained(
        folder, device="cuda", memory=memory, embedding_cache="off", **settings_of(precision)
    )
    pipeline.use_kernels(False)
    if is_graphed:
        pipeline.use_cuda_graph()
    given = {**SMALL, "num_steps": STEPS, "sampler": sampler, **more}
    if cache is not None:
        given["cache"] = parse_cache(cache)
    return pipeline(PROMPT, **given, callback=card.next_step)


def make_class(
    folder: Path,
    card: Card,
    *,
    memory: str = "24",
    precision: str | None = None,
    cache: str | None = None,
    is_graphed: bool = False,
    **more: Any,
) -> PipelineResult:
    """Make a video of a class on the card with torch's own operators."""
    pipeline = ClassPipeline.from_pretrained(
        folder, device="cuda", memory=memory, **settings_of(precision)
    )
    pipeline.use_kernels(False)
    if is_graphed:
        pipeline.use_cuda_graph()
    given: dict[str, Any] = {"steps": str(STEPS), **more}
    if cache is not None:
        given["cache"] = parse_cache(cache)
    return pipeline(callback=card.next_step, **given)


def steps_of(card: Card) -> list[StepRow]:
    """Return what whole steps did: from one callback to the next."""
    return card.step_table()[1:-1]


def waits_of(cache: str | None) -> int:
    """Return how often the host may wait for the card in a step of the core."""
    return int(cache is not None and cache.startswith(MEASURED))


def require_quiet(card: Card, waits: int = 0) -> None:
    """Require that no step copies from pageable memory or reads back more often than it may."""
    rows = steps_of(card)
    assert rows
    assert [row.pageable_copies for row in rows] == [0] * len(rows), card.report()
    assert max(row.read_backs for row in rows) <= waits, card.report()


@contextmanager
def card_for(preset: str = "24", capability: tuple[int, int] = (9, 0)) -> Iterator[Card]:
    """Have a card with the gigabytes of a memory preset."""
    with fake_cuda(capability=capability, total_memory=int(preset) * GB) as card:
        yield card


def distance(found: Tensor, expected: Tensor) -> float:
    """Return how far tensors are apart, in parts of the largest value."""
    return float((found.cpu() - expected).abs().max() / expected.abs().max())
