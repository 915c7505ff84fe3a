"""How far videos of quantised models are from exact ones: PSNR of decoded frames, on the starter.

    python benchmarks/precision.py --json benchmarks/results/precision.json
    python benchmarks/precision.py --ways "text int4" --prompts 16 --json one.json
    python benchmarks/precision.py --device cuda --prompts 32 --json precision_cuda.json

"fp8" and "int8" are what a run on this machine gives; "as on cards" rounds tokens to eight bits
whether the machine has such products or not, and "unpacked" leaves them as they are.

Every prompt is sampled with the same seed in float32 and in each precision, 50 steps of ddim. PSNR
is that of all frames of a video, values from 0 to 1. Seconds are those of the processor on the CPU,
of the clock elsewhere, for sampling and decoding; they say something of this machine alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
STEPS, TARGET = 50, 35.0
COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("circle", "square", "triangle")
MOTIONS = ("moving left", "moving right", "moving up", "moving down")
# Name, precision of the transformer and how it multiplies, precision of the text encoder
WAYS = (
    ("fp8", "fp8", None, None),
    ("fp8 as on cards", "fp8", "emulated", None),
    ("int8", "int8", None, None),
    ("int8 as on cards", "int8", "emulated", None),
    ("int8 unpacked", "int8", "unpacked", None),
    ("text fp8", None, None, "fp8"),
    ("text int8", None, None, "int8"),
    ("text int4", None, None, "int4"),
)


def prompts(count: int) -> list[str]:
    """Return different prompts of the kind that the starter was trained on."""
    made = [f"a {a} {b} {c}" for c in MOTIONS for b in SHAPES for a in COLOURS]
    step = max(1, len(made) // count)
    # an odd step visits every colour
    return [made[index * (step | 1) % len(made)] for index in range(count)]


def psnr(found: Tensor, exact: Tensor) -> float:
    """Return the peak signal-to-noise ratio of values from 0 to 1, in dB."""
    error = float((found.double() - exact.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def sample(
    pipeline: Any, texts: list[str], clock: Callable[[], float]
) -> tuple[list[Tensor], float]:
    """Return the frames of every prompt, and the seconds that a clip took."""
    pipeline(texts[0], num_steps=2)  # loads what is loaded when first needed
    start = clock()
    frames = [pipeline(text, num_steps=STEPS, seed=seed).frames for seed, text in enumerate(texts)]
    return frames, (clock() - start) / len(texts)


def measure(device: str, texts: list[str], chosen: list[str]) -> dict[str, Any]:
    """Return the figures of the ways that are chosen by name."""
    from latte_core.pipelines.text.pipeline import Pipeline
    from latte_core.precision.matmul import Backend
    from latte_core.precision.quantize import quantize

    clock = time.process_time if device == "cpu" else time.perf_counter
    exact, seconds = sample(Pipeline.from_pretrained("starter", device=device), texts, clock)
    found: dict[str, Any] = {"float32": {"seconds_per_clip": round(seconds, 3)}}
    for name, precision, product, text in (one for one in WAYS if one[0] in chosen):
        pipeline = Pipeline.from_pretrained("starter", device=device, text_precision=text)
        if product is None:
            pipeline.set_precision(precision)
        else:
            backend = Backend(name=product)
            quantize(pipeline.parts.transformer, str(precision), backend=backend)
        frames, seconds = sample(pipeline, texts, clock)
        values = [psnr(one, other) for one, other in zip(frames, exact, strict=True)]
        found[name] = {
            "psnr_mean": round(statistics.mean(values), 2),
            "psnr_median": round(statistics.median(values), 2),
            "psnr_lowest": round(min(values), 2),
            "at_target": sum(value >= TARGET for value in values),
            "seconds_per_clip": round(seconds, 3),
            "product": product or pipeline.precision.product,
        }
        print(name, found[name], flush=True)
    return found


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=4, help="how many clips (default: 4)")
    names = [one[0] for one in WAYS]
    parser.add_argument("--ways", nargs="+", choices=names, default=names, metavar="WAY")
    parser.add_argument("--json", type=Path, help="file to write")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    texts = prompts(given.prompts)
    result = {
        "clips": len(texts),
        "steps": STEPS,
        "target_db": TARGET,
        "ways": measure(given.device, texts, given.ways),
        "device": given.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {platform.system()}",
    }
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
