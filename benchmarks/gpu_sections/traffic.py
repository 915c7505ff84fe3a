"""Section 8: what moves beside the work: copies, waits, kept results, and what kernels chose."""

from __future__ import annotations

import re
import statistics
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor
from ways.transformer import Ways

from gpu_sections.full_size import case_of
from gpu_sections.sampling_runs import Runs
from gpu_sections.session import Found, Session

COPIED_BYTES = 2**30
WAIT_STEPS = 4
UNCACHED = "none"
STREAMING = ("24", "4")  # presets whose transformer stays, and streams
SYNC = re.compile("synchroniz", re.IGNORECASE)


def run(session: Session, found: Found) -> None:
    """Measure copies, streaming, waits and what caches keep."""
    session.attempt(found, "copies_gb_per_second", lambda: measure_copies(session))
    session.attempt(found, "streaming", lambda: measure_streaming(session))
    dtype = getattr(torch, session.sizes.dtypes[0])
    models = Ways(case_of(session), session.card.device, dtype, 0)
    runs = Runs(session, models)
    pipeline = runs.pipeline(None)
    waits: Found = {}
    kept: Found = {}
    found |= {"waits": waits, "kept_by_caches": kept}
    for cache in (UNCACHED, "balanced", *import_core("acceleration.help").offered()):
        chosen = None if cache == UNCACHED else cache
        session.attempt(
            waits, cache, lambda chosen=chosen: count_waits(session, runs, pipeline, chosen)
        )
        session.attempt(
            kept, cache, lambda chosen=chosen: measure_kept(session, runs, pipeline, chosen)
        )
    session.attempt(found, "kernels", lambda: chosen_kernels(pipeline.parts.transformer))


def measure_copies(session: Session) -> dict[str, float]:
    """Return the speed of copies to the card and back, from usual memory and from pinned."""
    card = session.card
    count = COPIED_BYTES if card.is_gpu else 2**20
    there = torch.empty(count, dtype=torch.uint8, device=card.device)
    found: dict[str, float] = {}
    for name, pins in (("pageable", False), ("pinned", card.is_gpu)):
        here = torch.empty(count, dtype=torch.uint8, pin_memory=pins)
        for way, source, target in (("to the card", here, there), ("back", there, here)):

            def copy(source: Tensor = source, target: Tensor = target) -> None:
                target.copy_(source, non_blocking=True)

            copy()
            seconds = min(card.wall(copy)[1] for _ in range(session.sizes.rounds))
            found[f"{name}, {way}"] = round(count / max(seconds, 1e-9) / 1e9, 2)
    return found


def measure_streaming(session: Session) -> Found:
    """Return what a step costs with the transformer on the card, and streamed through it."""
    folder = session.models.part("transformer").parent
    found: Found = {}
    for preset in STREAMING:

        def measured(preset: str = preset) -> Found:
            return stream(session, folder, preset)

        session.attempt(found, preset, measured)
    return found


def stream(session: Session, folder: Any, preset: str) -> Found:
    """Return the seconds of a step under a preset, and how well copies hide behind the work."""
    sizes = session.sizes
    dtype = getattr(torch, sizes.dtypes[0])
    pipeline = import_core("pipelines.text.pipeline").Pipeline.from_pretrained(
        folder / "transformer", dtype=dtype, device=session.card.device, memory=preset
    )
    text = torch.randn(1, sizes.tokens, sizes.text_width)

    def sample(steps: int) -> None:
        pipeline(
            None,
            prompt_embeds=text,
            negative_embeds=text,
            num_frames=sizes.frames,
            num_steps=steps,
            output="latents",
        )

    sample(1)
    times = {steps: session.card.wall(lambda steps=steps: sample(steps))[1] for steps in (1, 5)}
    transformer = pipeline.parts.transformer
    weights = sum(one.numel() * one.element_size() for one in transformer.parameters())
    return {
        "seconds_per_step": round((times[5] - times[1]) / 4, 4),
        "seconds_of_first_step": round(times[1], 4),
        "weights_gb": round(weights / 1e9, 3),
        "pinned": sum(one.is_pinned() for one in transformer.parameters()),
    }


def count_waits(session: Session, runs: Runs, pipeline: Any, cache: str | None) -> Found:
    """Return where a run waits for the device, by the line that does, beyond a run half as long.

    The difference of two runs leaves out what happens once.
    """
    steps = WAIT_STEPS
    runs.ours(pipeline, cache, steps=steps)
    counts: list[Counter[str]] = []
    for length in (steps, 2 * steps):
        with warnings.catch_warnings(record=True) as caught, watched(session):
            warnings.simplefilter("always")
            runs.ours(pipeline, cache, steps=length)
        counts.append(
            Counter(
                f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}"
                for one in caught
                if SYNC.search(str(one.message))
            )
        )
    extra = counts[1] - counts[0]
    return {
        "per_step": round(sum(extra.values()) / steps, 3),
        "in_a_whole_run": sum(counts[0].values()),
        "per_step_by_line": {line: round(n / steps, 3) for line, n in extra.most_common(12)},
        "by_line": dict(counts[0].most_common(12)),
    }


@contextmanager
def watched(session: Session) -> Generator[None]:
    """Have torch warn of every call that waits for the device."""
    if not session.card.is_gpu:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def measure_kept(session: Session, runs: Runs, pipeline: Any, cache: str | None) -> Found:
    """Return the peak of a run: caches differ in what they keep from step to step."""
    steps = max(4, session.sizes.few_steps)
    seconds: list[float] = []

    def sample() -> None:
        seconds.append(session.card.wall(lambda: runs.ours(pipeline, cache, steps=steps))[1])

    memory = session.card.memory_of(sample)
    return {"seconds": round(statistics.mean(seconds), 3), "steps": steps, **memory}


def chosen_kernels(model: Any) -> list[Found]:
    """Return what a model's kernels chose: -1 is torch, else the place of a way."""
    return [
        {"kernel": str(key[0]), "way": way, "of": [str(part) for part in key[2:]]}
        for key, way in model.kernels.choices.items()
    ]
