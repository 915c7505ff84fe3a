"""Time a training update of ours against the authors' recipe, on one small Latte in one process.

    python benchmarks/training.py [--pairs 10] [--depth 8] [--hidden 192]

Both ways are those of `ways/training.py`. Both start from the same weights and see the same clips,
noise and timesteps; both run in turn, the order changing from pair to pair, after a warm-up.
Printed are the median of the pairwise ratios of tokens per second (above 1: ours is faster), the
difference of the losses, and the peak of memory that an update needs with and without checkpointed
activations.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring.memory import MIB, reset_peak, resident_bytes
from ways.training import BATCH, Case, Ours, Recipe, make_case, model_of


def timed(update: Callable[[Case], float], case: Case) -> tuple[float, float]:
    """Return CPU-seconds and wall seconds of one update."""
    cpu, wall = time.process_time(), time.perf_counter()
    update(case)
    return time.process_time() - cpu, time.perf_counter() - wall


def compare(depth: int, hidden: int, pairs: int, seed: int) -> dict[str, Any]:
    """Run the interleaved pairs and return the figures."""
    torch.manual_seed(seed)
    model = model_of(depth, hidden)
    recipe, ours = Recipe(model), Ours(model)
    losses = [(recipe.update(make_case(k)), ours.update(make_case(k))) for k in range(2)]
    cpu_ratios, wall_ratios, ours_wall = [], [], []
    for index in range(pairs):
        case = make_case(100 + index)
        order = (recipe, ours) if index % 2 else (ours, recipe)
        times = {id(one): timed(one.update, case) for one in order}
        cpu_ratios.append(times[id(recipe)][0] / times[id(ours)][0])
        wall_ratios.append(times[id(recipe)][1] / times[id(ours)][1])
        ours_wall.append(times[id(ours)][1])
    tokens = BATCH * 16 * 64
    return {
        "ratio_cpu_median": statistics.median(cpu_ratios),
        "ratio_wall_median": statistics.median(wall_ratios),
        "ratio_cpu_all": [round(value, 3) for value in cpu_ratios],
        "ours_tokens_per_second": round(tokens / statistics.median(ours_wall)),
        "losses_recipe_ours": losses,
        "max_loss_difference": max(abs(a - b) for a, b in losses),
        "depth": depth,
        "hidden_size": hidden,
        "clips": BATCH,
        "tokens_per_clip": 16 * 64,
        "pairs": pairs,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {platform.system()}",
    }


def peak_of_updates(depth: int, hidden: int, checkpointed: bool) -> float:
    """Return by how many MB two updates raise this process's memory at its peak.

    Gradients, both moments of AdamW and the average are part of it.
    """
    torch.manual_seed(0)
    ours = Ours(model_of(depth, hidden), checkpointed)
    reset_peak()
    before = resident_bytes("VmRSS")
    for k in range(2):
        ours.update(make_case(k))
    return (resident_bytes("VmHWM") - before) / MIB


def measure_memory(depth: int, hidden: int) -> dict[str, float]:
    """Measure the peaks, each in a process of its own."""
    peaks: dict[str, float] = {}
    for name in ("kept", "checkpointed"):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "peak.json"
            sizes = ["--depth", str(depth), "--hidden", str(hidden)]
            command = [sys.executable, __file__, "--memory", name, "--json", str(target), *sizes]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            peaks[f"peak_mb_{name}"] = json.loads(target.read_text())
    return peaks


def main() -> None:
    """Read the options, run, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", choices=("kept", "checkpointed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        checkpointed = options.memory == "checkpointed"
        peak = peak_of_updates(options.depth, options.hidden, checkpointed)
        options.json.write_text(json.dumps(round(peak, 1)))
        return
    figures = compare(options.depth, options.hidden, options.pairs, options.seed)
    figures |= measure_memory(options.depth, options.hidden)
    print(json.dumps(figures, indent=2))
    print(f"ours / the authors' recipe, tokens per second: {figures['ratio_cpu_median']:.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
