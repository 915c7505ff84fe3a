"""Time one guided denoiser step of LatteT2V against diffusers' class with the same weights.

    taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/transformer.py --json results.json
    python benchmarks/transformer.py --device cuda --json results.json

On the CPU: reduced models in float32, CPU-seconds. On a GPU: Latte-1's full size in bfloat16 with
random weights, seconds between events, with fused kernels, CUDA graphs and both. All ways of a case
run in one process, in turns whose order changes from round to round, after a warm-up. For each way
the table has the smallest and the median time, and how many times faster it is than diffusers'
class: the median over the rounds, and the ratio of the smallest times. Compiled ways are compared
with diffusers' class compiled whole. What compiling cost, for a first prompt and for one of another
length, is part of the result.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring.clocks import in_turns, seconds_on_cpu, seconds_on_gpu
from ways.transformer import Case, Way, Ways, figures

WARM_UPS = 1  # beside the first call, and the one whose result is compared
OTHER_LENGTH = 20  # of a second prompt
REDUCED = {"heads": 8, "text_width": 512}
FULL = {"layers": 28, "heads": 16, "text_width": 4096, "frames": 16}


def cases(device: str, tokens: int) -> list[Case]:
    """Return the sizes to time on a device."""
    if device == "cpu":
        return [
            Case(layers=8, frames=16, side=32, tokens=tokens, **REDUCED),
            Case(layers=1, frames=16, side=32, tokens=tokens, **REDUCED),
            Case(layers=2, frames=4, side=64, tokens=tokens, **REDUCED),
        ]
    return [Case(side=side, tokens=tokens, **FULL) for side in (64, 32)]


def ways_of(models: Ways, *, is_gpu: bool, has_compiler: bool) -> list[Way]:
    """Return what to time."""
    found = [models.diffusers(), models.ours(), models.ours(fused=True)]
    if is_gpu:
        found += [models.ours(fused=True, kernels=True)]
        found += [models.ours(fused=True, graphed=True)]
        found += [models.ours(fused=True, kernels=True, graphed=True)]
    if has_compiler:
        found += [models.diffusers(compiled=True), models.ours(compiled=True)]
        found += [models.ours(fused=True, compiled=True)]
        if is_gpu:
            found += [models.ours(fused=True, compiled=True, graphed=True)]
    return found


def wall(call: Callable[[], Any]) -> float:
    """Return the wall seconds of a call."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def measure(models: Ways, ways: list[Way], rounds: int, seed: int) -> dict[str, Any]:
    """Time all ways of a case in turns."""
    is_gpu = models.device != "cpu"
    timed = seconds_on_gpu if is_gpu else seconds_on_cpu
    text = models.text(models.case.tokens)
    calls = {way.name: way.prepare(text) for way in ways}
    expected = calls[ways[0].name]().float()
    facts: dict[str, dict[str, Any]] = {}
    for way in ways:
        seconds = wall(calls[way.name])
        for _ in range(WARM_UPS):
            calls[way.name]()
        difference = calls[way.name]().float() - expected
        facts[way.name] = {
            "first_call_seconds": round(seconds, 3),
            "max_difference": float(difference.abs().max()),
            "graphs": way.graphs(),
        }
        print(f"{way.name}: first call {seconds:.1f} s, {way.graphs()} graphs", flush=True)
    times = in_turns(calls, rounds, timed, seed)
    for way in ways:
        facts[way.name] |= figures(way, times)
    for way in ways:
        facts[way.name] |= other_length(models, way)
    return {"case": models.case.name, "rounds": rounds, "ways": facts}


def other_length(models: Ways, way: Way) -> dict[str, Any]:
    """Return what a compiled way makes of a prompt of another length: graphs and seconds."""
    before = way.graphs()
    if not before:
        return {"about": way.about()} if way.about() else {}
    call = way.prepare(models.text(OTHER_LENGTH))
    seconds = wall(call)
    return {
        "graphs_for_another_length": way.graphs() - before,
        "first_call_of_another_length_seconds": round(seconds, 3),
        "about": way.about(),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as lines for a page."""
    lines = [
        "| Case | Way | s min | s median | speed-up, median | of minima | first call | graphs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, facts in result["ways"].items():
            ratios = [facts.get(key) for key in ("speed_up_median", "speed_up_of_minima")]
            shown = ["-" if ratio is None else f"{ratio:.3f}x" for ratio in ratios]
            graphs = f"{facts['graphs']} + {facts.get('graphs_for_another_length', 0)}"
            cells = [
                result["case"],
                name,
                f"{facts['seconds_min']:.4g}",
                f"{facts['seconds_median']:.4g}",
                *shown,
                f"{facts['first_call_seconds']:.1f} s",
                graphs,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """Return what ran the benchmark."""
    import diffusers

    is_gpu = device != "cpu"
    return {
        "device": torch.cuda.get_device_name() if is_gpu else f"{platform.machine()} CPU",
        "timed": "seconds between events" if is_gpu else "CPU-seconds",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def main() -> None:
    """Read the options, run, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--rounds", type=int, default=12, help="how often each way is timed")
    parser.add_argument("--tokens", type=int, default=120, help="of the text")
    parser.add_argument("--case", type=int, action="append", help="number of a case, from 0")
    parser.add_argument("--way", action="append", help="name of a way to time (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true", help="leave compiled ways out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    is_gpu = options.device != "cpu"
    results: list[dict[str, Any]] = []
    for number, case in enumerate(cases(options.device, options.tokens)):
        if options.case and number not in options.case:
            continue
        print(f"== {case.name}", flush=True)
        models = Ways(
            case, options.device, torch.bfloat16 if is_gpu else torch.float32, options.seed
        )
        ways = ways_of(models, is_gpu=is_gpu, has_compiler=not options.no_compile)
        ways = [way for way in ways if not options.way or way.name in options.way]
        results.append(measure(models, ways, options.rounds, options.seed))
        if options.json is not None:  # after each case, because a run takes long
            found = {**machine(options.device), "seed": options.seed, "cases": results}
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
