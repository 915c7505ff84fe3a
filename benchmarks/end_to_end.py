"""Time a video from prompt to frames, against diffusers' LattePipeline on the same files.

    taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --model FOLDER --device cuda --dtype bfloat16 --output mine.json

Both pipelines get the same weights, prompt, starting noise, steps (DDIM) and guidance, clean the
prompt, encode it and the empty one anew for every video, and decode in pieces of 14 frames. All
ways run in one process, in turns whose order changes from round to round, after a warm-up; each
round has another prompt and seed. Ratios are medians over the rounds. Seconds are CPU-seconds on a
CPU, and clock seconds on a synchronised device elsewhere. PSNR is that of the frames against those
of diffusers without a cache, 100 dB at most. Caches of diffusers' that fail on Latte, or whose
video is the same to the bit, are told and not timed.

Results go to benchmarks/results/end_to_end_cpu.json and, as a plot, into a PNG beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import random
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from caching import GRID, INK, PAPER, RESULTS, split_prompts
from measuring.core import import_core
from torch import Tensor
from ways.end_to_end import (
    OURS,
    THEIRS,
    Figures,
    Ours,
    Task,
    Theirs,
    Watch,
    Way,
    figures_of,
    full_name,
    silence,
    tasks_for,
)

PLAIN = f"{THEIRS}, plain"
COLORS = {THEIRS: (200, 80, 40), OURS: (20, 90, 170)}
OTHER_PROMPTS = (
    "A cat wearing sunglasses and working as a lifeguard at a pool.",
    "Yellow and black tropical fish dart through the sea.",
    "An epic tornado attacking above a glowing city at night.",
    "Slow pan upward of blazing oak fire in an indoor fireplace.",
)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def warm_up(watch: Watch, ways: Sequence[Way], task: Task) -> tuple[list[Way], dict[str, str]]:
    """Run every way once; return those worth timing, and what became of diffusers' others.

    The first way is diffusers without a cache, whose frames show which caches do nothing. A way of
    ours that fails ends the benchmark.
    """
    kept: list[Way] = []
    others: dict[str, str] = {}
    plain: Tensor | None = None
    for way in ways:
        try:
            frames, _ = watch.time(way, task)
        except Exception as error:
            if way.side == OURS or plain is None:
                raise
            others[full_name(way)] = f"crashes: {first_line(error)}"
            continue
        if plain is None:
            plain = frames
        elif way.side == THEIRS and torch.equal(frames, plain):
            others[full_name(way)] = "no step skipped (output bit-equal)"
            continue
        kept.append(way)
    return kept, others


def measure(watch: Watch, ways: Sequence[Way], tasks: Sequence[Task], seed: int) -> None:
    """Time all ways in turns, a round for each task, and compare their frames."""
    psnr = import_core("pipelines.calibration.calibration").psnr
    draws = random.Random(seed)
    for number, task in enumerate(tasks):
        frames: dict[str, Tensor] = {}
        for way in draws.sample(list(ways), len(ways)):
            frames[full_name(way)], spent = watch.time(way, task)
            way.spent.append(spent)
        for way in ways:
            way.decibels.append(psnr(frames[full_name(way)], frames[PLAIN]))
        print(f"round {number + 1} of {len(tasks)}", file=sys.stderr, flush=True)


def table(ways: dict[str, Figures], others: dict[str, str]) -> str:
    """Return the results as lines for a page."""
    lines = [
        "| Way | s median | s min | times faster | PSNR | text, denoising, decoding |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in ways.items():
        text, decoding = facts["share_text"], facts["share_decoding"]
        shares = ", ".join(f"{one:.0%}" for one in (text, 1 - text - decoding, decoding))
        lines.append(
            f"| {name} | {facts['seconds_median']:.2f} | {facts['seconds_min']:.2f} "
            f"| {facts['times_faster']:.2f}x | {facts['psnr']:.1f} dB | {shares} |"
        )
    lines += [f"| {name} | {what} | | | | |" for name, what in others.items()]
    return "\n".join(lines)


def draw(path: Path, ways: dict[str, Figures], title: str) -> None:
    """Plot PSNR over the seconds of a video, a numbered point for each way."""
    pillow: Any = importlib.import_module("PIL.Image")
    picture = pillow.new("RGB", (1000, 560), PAPER)
    pen: Any = importlib.import_module("PIL.ImageDraw").Draw(picture)
    left, right, top, bottom = 80, 680, 50, 490
    longest = max(facts["seconds_median"] for facts in ways.values()) * 1.1
    unit = 10.0 ** len(str(int(longest / 4))) / 20 if longest >= 4 else 0.5

    def place(seconds: float, decibels: float) -> tuple[float, float]:
        x = left + seconds / longest * (right - left)
        return x, bottom - decibels / 105 * (bottom - top)

    for decibels in range(0, 101, 20):
        _, y = place(0, decibels)
        pen.line((left, y, right, y), fill=GRID)
        pen.text((left - 40, y - 8), f"{decibels}", fill=INK, font_size=14)
    for index in range(int(longest / unit) + 1):
        x, _ = place(index * unit, 0)
        pen.line((x, top, x, bottom), fill=GRID)
        pen.text((x - 10, bottom + 8), f"{index * unit:g}", fill=INK, font_size=14)
    for number, (name, facts) in enumerate(ways.items(), 1):
        color = COLORS[name.partition(",")[0]]
        x, y = place(facts["seconds_median"], facts["psnr"])
        row = top + 26 * (number - 1)
        for spot_x, spot_y in ((x, y), (right + 36, row + 10)):
            pen.ellipse((spot_x - 11, spot_y - 11, spot_x + 11, spot_y + 11), fill=color)
            pen.text((spot_x, spot_y), f"{number}", fill=PAPER, font_size=13, anchor="mm")
        pen.text((right + 56, row + 2), name, fill=INK, font_size=14)
    pen.text((left + 60, 16), title, fill=INK, font_size=16)
    pen.text((left - 60, 16), "PSNR, dB", fill=INK, font_size=14)
    pen.text((left + 220, bottom + 34), "seconds for a video", fill=INK, font_size=14)
    picture.save(path, format="PNG")


def options_given() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter", help="starter, or a folder of diffusers'")
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--dtype", default="float32", help="of all weights (default: float32)")
    parser.add_argument("--vae", default="temporal", choices=("temporal", "image"))
    parser.add_argument("--prompt", action="append", help="one of several to use")
    parser.add_argument("--rounds", type=int, default=10, help="how often each way is timed")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "end_to_end_cpu.json")
    return parser.parse_args()


def prompts_for(model: str, rounds: int, seed: int) -> list[str]:
    """Return prompts for a model that none were given for."""
    if model != "starter":
        return list(OTHER_PROMPTS)
    scenes, _ = split_prompts(rounds, seed)
    return [import_core("starter.captions").base_prompt(*scene) for scene in scenes]


def machine(device: str) -> Figures:
    """Return what ran the benchmark."""
    versions = {
        name: importlib.import_module(name).__version__ for name in ("diffusers", "transformers")
    }
    is_cpu = device == "cpu"
    return {
        "device": f"{platform.machine()} CPU" if is_cpu else torch.cuda.get_device_name(device),
        "system": platform.system(),
        "timed": "CPU-seconds" if is_cpu else "clock seconds, synchronised",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
    }


def main() -> None:
    """Read the options, measure, print, and write JSON and plot."""
    given = options_given()
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
    silence()
    watch, dtype = Watch(given.device), getattr(torch, given.dtype)
    folder, _ = import_core("pipelines.model_folders").locate(given.model)
    home = Path(folder).parent
    theirs = Theirs(home, given.device, dtype, given.vae, watch)
    ours = Ours(given.model, given.device, dtype, given.vae, watch)
    defaults = ours.plain.defaults
    prompts = given.prompt or prompts_for(given.model, given.rounds, given.seed)
    size = (1, 4, defaults.num_frames, defaults.height // 8, defaults.width // 8)
    tasks = tasks_for(
        prompts,
        given.rounds,
        size,
        steps=given.steps,
        scale=defaults.guidance_scale,
        seed=given.seed,
    )
    every = [*theirs.ways(given.steps), *ours.ways(given.steps)]
    ways, others = warm_up(watch, every, tasks[0])
    measure(watch, ways, tasks, given.seed)
    figures = {full_name(way): figures_of(way, ways[0]) for way in ways}
    result = {
        "model": given.model,
        "frames": list(size[2:3]) + [defaults.height, defaults.width],
        "steps": given.steps,
        "sampler": "ddim",
        "guidance_scale": defaults.guidance_scale,
        "vae": given.vae,
        "dtype": given.dtype,
        "rounds": given.rounds,
        "prompts": [task.prompt for task in tasks],
        "seed": given.seed,
        **machine(given.device),
        "ways": figures,
        "not_timed": others,
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    title = (
        f"{given.model}, {given.steps} steps, guidance {defaults.guidance_scale:g}, {given.device}"
    )
    draw(given.output.with_suffix(".png"), figures, title)
    print(table(figures, others))


if __name__ == "__main__":
    main()
