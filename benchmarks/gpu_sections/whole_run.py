"""Section 4: from prompt to frames with a T5-XXL of random weights, by phase, in both pipelines."""

from __future__ import annotations

from typing import Any

import torch
from measuring.core import import_core
from ways.end_to_end import (
    Ours,
    Theirs,
    Watch,
    Way,
    figures_of,
    full_name,
    silence,
    tasks_for,
)

from gpu_sections.full_size import best_eight_bits
from gpu_sections.session import Found, Session

ROUNDS = 2
SCALE = 7.5
PROMPTS = ("a cat wearing sunglasses at a pool", "a ship in a storm at night")


def run(session: Session, found: Found) -> None:
    """Write the weights, open both pipelines on them, and time videos in turns."""
    _, seconds = session.card.wall(session.models.whole)
    found["seconds_to_write_random_weights"] = round(seconds, 2)
    session.save()
    ways: list[Way] = []
    watch = Watch(session.card.device)
    dtype = getattr(torch, session.sizes.dtypes[0])
    opening: Found = {}
    found["opening"] = opening
    session.attempt(opening, "diffusers", lambda: open_theirs(session, watch, dtype, ways))
    session.attempt(opening, "ours", lambda: open_ours(session, watch, dtype, ways))
    sizes = session.sizes
    tasks = tasks_for(
        PROMPTS,
        ROUNDS,
        (1, 4, sizes.frames, sizes.side, sizes.side),
        steps=sizes.steps,
        scale=SCALE,
        seed=0,
    )
    timed: Found = {}
    found["ways"] = timed
    # what is chosen or built once is not timed
    able = [
        session.attempt(
            timed, full_name(way), lambda way=way: warm_up(session, watch, way, tasks[0])
        )
        for way in ways
    ]
    ways = [way for way, facts in zip(ways, able, strict=True) if facts is not None]
    for number, task in enumerate(tasks):
        for way in ways[number % 2 :] + ways[: number % 2]:
            _, spent = watch.time(way, task)
            way.spent.append(spent)
            way.decibels.append(0.0)  # random weights have no likeness
        for way in ways:
            facts = figures_of(way, ways[0])
            timed[full_name(way)] |= {key: facts[key] for key in facts if "psnr" not in key}
        session.save()


def open_theirs(session: Session, watch: Watch, dtype: torch.dtype, ways: list[Way]) -> Found:
    """Open diffusers' pipeline."""
    silence()

    def opened() -> Theirs:
        return Theirs(session.models.path, session.card.device, dtype, "temporal", watch)

    theirs, seconds = session.card.wall(opened)
    ways.append(theirs.way())
    return {"seconds": round(seconds, 2)}


def open_ours(session: Session, watch: Watch, dtype: torch.dtype, ways: list[Way]) -> Found:
    """Open our pipeline: exact, with a cache, and with the cache and eight bits."""

    def opened() -> Ours:
        return Ours(str(session.models.path), session.card.device, dtype, "temporal", watch)

    ours, seconds = session.card.wall(opened)
    cache: Any = import_core("acceleration.settings").parse_cache("balanced")
    ways += [ours.way("plain", ours.plain), ours.way("cache balanced", ours.plain, cache)]
    steps = session.record["sections"].get("3", {}).get("steps", {})
    bits = best_eight_bits(next(iter(steps.values()), {}))
    if bits is not None:
        small = ours.quantised(bits)
        ways.append(ours.way(f"{bits}, cache balanced", small, cache))
    return {"seconds": round(seconds, 2)}


def warm_up(session: Session, watch: Watch, way: Way, task: Any) -> Found:
    """Make a video of few steps; return its seconds and what memory it took."""
    few = type(task)(
        prompt=task.prompt, noise=task.noise, steps=session.sizes.few_steps, scale=task.scale
    )
    seconds = 0.0

    def make() -> None:
        nonlocal seconds
        seconds = watch.time(way, few)[1].total

    memory = session.card.memory_of(make)
    return {"first_seconds": round(seconds, 3), "first_steps": few.steps, **memory}
