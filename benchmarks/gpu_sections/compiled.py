"""Section 9: everything that compiles, diffusers' class too, which takes the longest by far."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import torch
from torch import Tensor
from ways.transformer import Way, Ways

from gpu_sections.full_size import best_eight_bits, case_of, fastest, measure_ways, speed_up
from gpu_sections.sampling_runs import PLAIN, Runs, tell_stacked, time_runs
from gpu_sections.session import Found, Session

OURS = ("ours, compiled", "ours, fused QKV, compiled")
THEIRS = "diffusers compiled"


def run(session: Session, found: Found) -> None:
    """Time compiled steps in turns, then compiled runs with caches and in eight bits."""
    with stance(session), torch.no_grad():
        models = Ways(
            case_of(session),
            session.card.device,
            getattr(torch, session.sizes.dtypes[0]),
            0,
        )
        found["steps"] = {}
        makers: list[Callable[[], Way]] = [
            lambda: models.ours(fused=True, compiled=True),
            lambda: models.ours(compiled=True),
            lambda: models.diffusers(compiled=True),
        ]
        measure_ways(session, models, makers, found["steps"])
        ours = fastest(found["steps"], OURS)
        if ours is not None:
            figure = speed_up(found["steps"], ours, THEIRS)
            session.figure("exact_compiled_speedup", figure)
        measure_compiled_runs(session, models, found)


def measure_compiled_runs(session: Session, models: Ways, found: Found) -> None:
    """Time compiled runs beside those of section 3, if that was part of this run."""
    before = session.record["sections"].get("3", {})
    eager: Found = before.get("runs", {})
    likeness = "likeness_on_the_starter"
    runs, exact = Runs(session, models), dict[str, Tensor]()
    into: Found = {name: eager[name] for name in (PLAIN, likeness) if name in eager}
    found["runs"] = into
    if PLAIN not in into:
        session.attempt(into, PLAIN, lambda: {"seconds": round(runs.theirs(), 3)})
    first = next(iter(before.get("steps", {}).values()), {})
    for precision in dict.fromkeys((None, best_eight_bits(first))):
        time_runs(session, runs, into, precision, exact, compiled=True)
    tell_stacked(session, {**eager, **into})


@contextlib.contextmanager
def stance(session: Session) -> Generator[None]:
    """Let torch.compile compile, or in a short rehearsal run everything as it is."""
    if session.sizes.compiles:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
