"""Section 3: one guided step of the text model at full size, with random weights.

Whole runs of its sampling are in `sampling_runs.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from ways.transformer import Case, Way, Ways, figures

from gpu_sections.sampling_runs import PLAIN, measure_runs
from gpu_sections.session import Found, Session

EIGHT_BITS = ("int8", "fp8")
EXACT_WAYS = ("ours, kernels", "ours, fused QKV, kernels")
EXACT = 4  # ways that come first, which are measured in each type
PROFILED = (
    PLAIN,
    "ours",
    "ours, fused QKV, kernels",
    "ours, fused QKV, kernels, int8",
    "ours, fused QKV, kernels, fp8",
    "ours, fused QKV, kernels, graph",
    "ours, fused QKV, compiled",
)


def run(session: Session, found: Found) -> None:
    """Measure the roofline, a step in each type, and runs."""
    session.attempt(found, "roofline", lambda: roofline(session))
    steps: Found = {}
    found["steps"] = steps
    models: Ways | None = None
    for name in session.sizes.dtypes:
        del models  # one set of weights at a time
        session.card.free()
        models = Ways(case_of(session), session.card.device, getattr(torch, name), 0)
        steps[name] = {}
        with torch.no_grad():
            makers = step_ways(models)
            is_first = name == session.sizes.dtypes[0]
            measure_ways(session, models, makers if is_first else makers[:EXACT], steps[name])
        if is_first:
            tell_speed_ups(session, steps[name])
            found["runs"] = {}
            measure_runs(session, models, found["runs"], best_eight_bits(steps[name]))


def case_of(session: Session) -> Case:
    """Return the size of a step."""
    sizes = session.sizes
    return Case(
        layers=sizes.layers,
        heads=sizes.heads,
        frames=sizes.frames,
        side=sizes.side,
        tokens=sizes.tokens,
        text_width=sizes.text_width,
    )


def roofline(session: Session) -> Found:
    """Return what the card does at best: products of random matrices, and copies of large blocks.

    Bytes of a copy count twice, once read and once written.
    """
    card, edge = session.card, session.sizes.matrix
    found: Found = {"matrix": edge}
    for name in session.sizes.dtypes:
        a, b = (
            torch.randn(edge, edge, device=card.device, dtype=getattr(torch, name))
            for _ in range(2)
        )
        torch.mm(a, b)
        times = [card.seconds(lambda a=a, b=b: torch.mm(a, b)) for _ in range(session.sizes.rounds)]
        found[f"{name}_tflops"] = round(2 * edge**3 / statistics.median(times) / 1e12, 3)
    source = torch.randn(4 * edge * edge, device=card.device)
    target = torch.empty_like(source)
    target.copy_(source)
    times = [card.seconds(lambda: target.copy_(source)) for _ in range(session.sizes.rounds)]
    moved = 2 * source.numel() * source.element_size()
    found["copy_gb_per_second"] = round(moved / max(statistics.median(times), 1e-9) / 1e9, 2)
    return found


def step_ways(models: Ways) -> list[Callable[[], Way]]:
    """Return what makes each way of a step that compiles nothing, in the order of worth."""
    makers: list[Callable[[], Way]] = [
        models.diffusers,
        models.ours,
        lambda: models.ours(kernels=True),
        lambda: models.ours(fused=True, kernels=True),
    ]
    for precision in EIGHT_BITS:
        makers += [
            lambda name=precision: models.ours(kernels=True, precision=name),
            lambda name=precision: models.ours(fused=True, kernels=True, precision=name),
        ]
    makers.append(lambda: models.ours(kernels=True, graphed=True))
    makers.append(lambda: models.ours(fused=True, kernels=True, graphed=True))
    return makers


def measure_ways(
    session: Session, models: Ways, makers: Sequence[Callable[[], Way]], into: Found
) -> None:
    """Run every way once, time those that run in turns, and then look at memory and idle time.

    Args:
        models: of all ways.
        makers: return a way; one that fails is told and left out.
        into: gets the facts by the name of a way.
    """
    text = models.text(models.case.tokens)
    ways: dict[str, Way] = {}
    calls: dict[str, Callable[[], Tensor]] = {}
    expected: Tensor | None = None
    for maker in makers:
        way = make_way(session, maker, into)
        if way is None:
            continue

        def first(way: Way = way, expected: Tensor | None = expected) -> Found:
            calls[way.name] = way.prepare(text)
            made, seconds = session.card.wall(calls[way.name])
            facts: Found = {"first_call_seconds": round(seconds, 3)}
            if expected is not None:
                apart = (made.float() - expected).norm() / expected.norm()
                facts["relative_difference"] = float(apart)
            calls[way.name]()
            return facts

        if session.attempt(into, way.name, first) is None:
            calls.pop(way.name, None)
            continue
        ways[way.name] = way
        expected = calls[way.name]().float().clone() if expected is None else expected
    session.say(f"timing {len(calls)} ways")
    times = session.card.in_turns(calls, session.sizes.rounds)
    for name, way in ways.items():
        into[name] |= figures(way, times)
    session.save()
    for name, way in ways.items():
        into[name] |= {"graphs": way.graphs(), "about": way.about()}
        session.attempt(into[name], "memory", lambda name=name: session.card.memory_of(calls[name]))
        if name in PROFILED:
            session.attempt(
                into[name], "idle", lambda name=name: idle(session, name, calls[name], into[name])
            )


def make_way(session: Session, maker: Callable[[], Way], into: Found) -> Way | None:
    """Return a way; where it cannot be made, its error is kept under a number."""
    notes: Found = {}
    way = session.attempt(notes, "way", maker)
    if way is None:
        into[f"not made, {len(into)}"] = notes["way"]
    return way


def idle(session: Session, name: str, call: Callable[[], Any], facts: Found) -> float:
    """Return the share of idle time in a call, and add its table to the profile's file.

    The time in which the device works is the profiler's; the whole is that without a profiler.
    """
    busy, table = session.card.profile(call)
    share = round(max(0.0, 1 - busy / max(facts["seconds_median"], 1e-9)), 4)
    path = session.beside(".profile.txt")
    files = session.record.setdefault("files", [])
    with path.open("a" if path.name in files else "w", encoding="utf-8") as handle:
        handle.write(f"{name}, idle {share:.1%}\n{table}\n\n")
    if path.name not in files:
        files.append(path.name)
    return share


def speed_up(steps: Found, name: str, against: str) -> float | None:
    """Return how many times faster one way is than another, None where one has no time."""
    pair = [steps.get(one, {}).get("seconds_median") for one in (against, name)]
    if None in pair or not pair[1]:
        return None
    return round(pair[0] / pair[1], 3)


def fastest(steps: Found, names: Sequence[str]) -> str | None:
    """Return the name of the fastest of several ways that have a time."""
    timed = [name for name in names if steps.get(name, {}).get("seconds_median") is not None]
    return min(timed, key=lambda name: steps[name]["seconds_median"], default=None)


def best_eight_bits(steps: Found) -> str | None:
    """Return `int8` or `fp8`, whichever is faster; None where neither runs."""
    names = [f"{way}, {bits}" for way in EXACT_WAYS for bits in EIGHT_BITS]
    best = fastest(steps, names)
    return None if best is None else best.rpartition(", ")[2]


def tell_speed_ups(session: Session, steps: Found) -> None:
    """Write down what kernels and eight bits make faster."""
    exact = fastest(steps, EXACT_WAYS)
    if exact is None:
        return
    session.record["exact_way"] = exact
    session.figure("exact_speedup", speed_up(steps, exact, PLAIN))
    names = [f"{way}, {bits}" for way in EXACT_WAYS for bits in EIGHT_BITS]
    eight = fastest(steps, names)
    if eight is not None:
        session.record["eight_bit_way"] = eight
        session.figure("eight_bit_speedup", speed_up(steps, eight, exact))
