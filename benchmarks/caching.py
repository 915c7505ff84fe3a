"""Measure what each cache costs in likeness and spares in work, on one model, in one process.

    python benchmarks/caching.py [--model starter] [--prompts 32] [--steps 50]

Every prompt is made once without a cache and once with each of them, from the same noise. Told are,
as means over the prompts: the share of the blocks' work that was done, seconds of CPU time against
those without a cache, and the PSNR of decoded frames against the frames without a cache. Steps
counted as full are those that ran all blocks. The calibrated schedules are made first, on prompts
that are not among those measured. Also told is how much of colour, shape and direction is as the
prompts say, which only the starter is asked for.

Results go to benchmarks/results/caching.json and, as a plot, caching.png beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from measuring.core import import_core
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CALIBRATION_PROMPTS = 4
HAND, CALIBRATED, TEACACHE = "static, by hand", "static, calibrated", "TeaCache"
FIRST_BLOCK, BROADCAST, GUIDANCE = "first-block", "PAB", "calibrated + guidance"
SPEED_UPS = (1.25, 1.6, 2.0, 2.5, 3.3)
PUBLISHED = (  # they repeat the last residual, as published
    (TEACACHE, "teacache", ("0.1", "0.15", "0.2", "0.25")),
    (FIRST_BLOCK, "first-block", ("0.05", "0.1", "0.2")),
    (BROADCAST, "pab", ("2/3/6", "3/4/7", "4/6/9")),
)
TARGETS = ((1.6, 30.0), (2.0, 26.0), (3.3, 20.0))  # times fewer full steps, PSNR in dB
PAPER, INK, GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
COLORS = {
    CALIBRATED: (20, 90, 170),
    GUIDANCE: (110, 60, 160),
    HAND: (90, 160, 220),
    TEACACHE: (200, 80, 40),
    FIRST_BLOCK: (60, 140, 60),
    BROADCAST: (150, 110, 20),
}


@dataclass
class Case:
    """One cache, and what was measured of it, an entry for each prompt."""

    kind: str
    label: str
    settings: Any
    work: list[float] = field(default_factory=list)
    full_steps: list[int] = field(default_factory=list)
    decibels: list[float] = field(default_factory=list)
    time_share: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)

    def figures(self, num_steps: int) -> dict[str, Any]:
        """Return the means."""
        full = statistics.mean(self.full_steps)
        return {
            "kind": self.kind,
            "label": self.label,
            "full_steps": round(full, 2),
            "fewer_full_steps": round(num_steps / full, 3),
            "work": round(statistics.mean(self.work), 4),
            "cpu_time": round(statistics.median(self.time_share), 3),
            "psnr": round(statistics.mean(self.decibels), 2),
            "psnr_lowest": round(min(self.decibels), 2),
            "right": round(statistics.mean(self.right), 4),
        }


def split_prompts(count: int, seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return (colour, shape, direction) of the prompts to measure and of those to calibrate on."""
    parts = import_core("starter.scene_parts")
    grid = list(product(parts.COLORS, parts.SHAPES, parts.DIRECTIONS))
    random.Random(seed).shuffle(grid)
    return grid[:count], grid[count : count + CALIBRATION_PROMPTS]


def cases_for(schedules: Any) -> list[Case]:
    """Return every cache that is measured."""
    settings = import_core("acceleration.settings")
    guidance, make = import_core("acceleration.plans").GuidancePlan(), settings.CacheSettings
    cases: list[Case] = []
    for speed_up in SPEED_UPS:
        calibrated = {"schedules": schedules, "speed_up": speed_up}
        cases += [
            Case(CALIBRATED, f"{speed_up:g}", make(**calibrated)),
            Case(HAND, f"{speed_up:g}", make(schedules=by_hand(schedules, speed_up))),
            Case(GUIDANCE, f"{speed_up:g}", make(**calibrated, guidance=guidance)),
        ]
    for kind, name, values in PUBLISHED:
        for value in values:
            cache = replace(settings.parse_cache(f"{name}:{value}"), forecast=0)
            cases.append(Case(kind, value, cache))
    return cases


def by_hand(schedules: Any, speed_up: float) -> Any:
    """Return a file with the one list that the rule makes; a model may come with better ones."""
    full_steps = import_core("acceleration.policies").hand_schedule(schedules.num_steps, speed_up)
    entry = import_core("acceleration.schedule_file").CalibratedSchedule
    return replace(schedules, schedules=(entry(full_steps=full_steps.full_steps),))


def calibrate(pipeline: Any, prompts: Sequence[str], steps: int, seed: int) -> Any:
    """Return schedules for the pipeline's own guidance scale."""
    calibration = import_core("pipelines.calibration.calibration")
    run = calibration.CalibrationRun(
        name="starter", steps=str(steps), seed=seed, speed_ups=SPEED_UPS
    )
    return import_core("pipelines.calibration.subjects").calibrate_text(pipeline, prompts, run)


def share_right(frames: Tensor, scene: tuple[str, ...]) -> float:
    """Return which share of colour, shape and direction is as asked."""
    found = import_core("starter.measure").measure_clip(frames)
    color, shape, direction = scene
    is_right = (found.color == color, found.shape == shape, found.direction == direction)
    return sum(is_right) / len(is_right)


def measure(
    pipeline: Any, scenes: Sequence[tuple[str, ...]], cases: Sequence[Case], steps: int, seed: int
) -> list[float]:
    """Fill the cases; return the shares that are right without a cache."""
    base_prompt = import_core("starter.captions").base_prompt
    psnr = import_core("pipelines.calibration.calibration").psnr
    plain_right: list[float] = []

    def make(index: int, cache: Any) -> tuple[Any, float]:
        started = time.process_time()
        made = pipeline(
            base_prompt(*scenes[index]),
            num_steps=steps,
            guidance_scale=pipeline.defaults.guidance_scale,
            seed=seed + index,
            cache=cache,
        )
        return made, time.process_time() - started

    make(0, None)  # warm-up
    for index, scene in enumerate(scenes):
        plain, plain_time = make(index, None)
        plain_right.append(share_right(plain.frames, scene))
        for case in cases:
            made, seconds = make(index, case.settings)
            (report,) = made.cache
            case.work.append(report.work)
            case.full_steps.append(report.full_steps)
            case.decibels.append(psnr(made.frames, plain.frames))
            case.time_share.append(seconds / plain_time)
            case.right.append(share_right(made.frames, scene))
        print(f"prompt {index + 1} of {len(scenes)}", file=sys.stderr, flush=True)
    return plain_right


def draw(path: Path, figures: Sequence[dict[str, Any]], title: str) -> None:
    """Plot PSNR over the work that is spared, a line for each kind."""
    pillow: Any = importlib.import_module("PIL.Image")
    picture = pillow.new("RGB", (960, 560), PAPER)
    pen: Any = importlib.import_module("PIL.ImageDraw").Draw(picture)
    left, right, top, bottom = 80, 720, 50, 490
    highest = max(70.0, max(one["psnr"] for one in figures) + 2)
    fastest = max(1 / one["work"] for one in figures) * 1.05

    def place(times_less: float, decibels: float) -> tuple[float, float]:
        x = left + (times_less - 1) / (fastest - 1) * (right - left)
        return x, bottom - (decibels - 10) / (highest - 10) * (bottom - top)

    for decibels in range(10, int(highest) + 1, 10):
        _, y = place(1, decibels)
        pen.line((left, y, right, y), fill=GRID)
        pen.text((left - 40, y - 8), f"{decibels}", fill=INK, font_size=14)
    for tenths in range(10, int(fastest * 10) + 1, 5):
        x, _ = place(tenths / 10, 10)
        pen.line((x, top, x, bottom), fill=GRID)
        pen.text((x - 10, bottom + 8), f"{tenths / 10:g}", fill=INK, font_size=14)
    for times_less, decibels in TARGETS:
        x, y = place(times_less, decibels)
        pen.line((x - 7, y - 7, x + 7, y + 7), fill=INK, width=2)
        pen.line((x - 7, y + 7, x + 7, y - 7), fill=INK, width=2)
    for row, (kind, color) in enumerate(COLORS.items()):
        points = sorted(
            place(1 / one["work"], one["psnr"]) for one in figures if one["kind"] == kind
        )
        pen.line(points, fill=color, width=2)
        for x, y in points:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
        y = top + 24 * row
        pen.line((right + 20, y + 8, right + 44, y + 8), fill=color, width=4)
        pen.text((right + 54, y), kind, fill=INK, font_size=14)
    pen.text((right + 20, top + 24 * len(COLORS)), "x  aims", fill=INK, font_size=14)
    pen.text((left + 60, 16), title, fill=INK, font_size=16)
    pen.text((left - 60, 16), "PSNR, dB", fill=INK, font_size=14)
    pen.text((left + 180, bottom + 34), "times less work in the blocks", fill=INK, font_size=14)
    picture.save(path, format="PNG")


def main() -> None:
    """Read the options, measure, and write JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "caching.json")
    options = parser.parse_args()
    pipeline = import_core("pipelines.text.pipeline").Pipeline.from_pretrained(options.model)
    scenes, others = split_prompts(options.prompts, options.seed)
    base_prompt = import_core("starter.captions").base_prompt
    schedules = calibrate(
        pipeline, [base_prompt(*one) for one in others], options.steps, options.seed + 1000
    )
    cases = cases_for(schedules)
    plain_right = measure(pipeline, scenes, cases, options.steps, options.seed)
    figures = [case.figures(options.steps) for case in cases]
    scale = pipeline.defaults.guidance_scale
    result = {
        "model": options.model,
        "transformer": schedules.digest or digest_of(options.model),
        "prompts": len(scenes),
        "calibration_prompts": len(others),
        "steps": options.steps,
        "sampler": "ddim",
        "guidance_scale": scale,
        "seed": options.seed,
        "right_without_cache": round(statistics.mean(plain_right), 4),
        "caches": figures,
        "schedules": {
            f"{options.steps / len(one.full_steps):.2f}": list(one.full_steps)
            for one in schedules.schedules
        },
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {platform.system()}",
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    title = f"{options.model}, {len(scenes)} prompts, {options.steps} steps, guidance {scale:g}"
    draw(options.output.with_suffix(".png"), figures, title)
    for one in figures:
        print(
            f"{one['kind']:22} {one['label']:>6}  {one['full_steps']:5.1f} full steps, work "
            f"{one['work']:.3f}, CPU time {one['cpu_time']:.3f}, {one['psnr']:5.1f} dB, right "
            f"{one['right']:.3f}"
        )
    print(f"without a cache: right {result['right_without_cache']:.3f}")


def digest_of(model: str) -> str:
    """Return the digest of a model's transformer."""
    folder, _ = import_core("pipelines.model_folders").locate(model)
    return import_core("checkpoint.lora.writer").base_of(folder).digest


if __name__ == "__main__":
    main()
