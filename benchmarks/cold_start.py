"""Time how long the first video takes, with and without encoded prompts that are known already.

    python benchmarks/cold_start.py [--model starter] [--repeat 3] [--json FILE]

Every figure comes from a process of its own: importing, opening the model, the first video, and a
second one of another prompt in the same process. Seconds of the processor tell more than those of
the clock where other programs run beside. `off` has no cache of prompts, `empty` fills one
on disk, `filled` finds both prompts there and never loads the text encoder. Two further processes
are told apart by the file cache of the system only, so that one run is thrown away first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

WAYS = ("off", "empty", "filled")
PROMPTS = ("a red circle moving left", "a blue square moving up")
STEPS = 4
HEAVY = ("transformers", "diffusers", "tokenizers")


def run_here(model: str, cache: str) -> dict[str, Any]:
    """Make two videos and return the seconds of each part, by the clock and of the processor."""
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    marks: dict[str, dict[str, float]] = {name: {} for name in clocks}
    begun = {name: clock() for name, clock in clocks.items()}
    since = dict(begun)

    def mark(part: str) -> None:
        for name, clock in clocks.items():
            now = clock()
            marks[name][part] = now - since[name]
            since[name] = now

    from measuring.core import import_core

    pipeline_class: Any = import_core("pipelines.text.pipeline").Pipeline
    mark("import")
    pipeline = pipeline_class.from_pretrained(model, embedding_cache=cache)
    mark("open")
    pipeline(PROMPTS[0], num_steps=STEPS)
    mark("first video")
    pipeline(PROMPTS[1], num_steps=STEPS)
    mark("second video")
    for name, clock in clocks.items():
        marks[name]["total"] = clock() - begun[name]
    imported = [name for name in HEAVY if name in sys.modules]
    loaded = pipeline.parts._text_encoder is not None
    return {**marks, "text_encoder_loaded": loaded, "imported": imported}


def run_apart(model: str, cache: str) -> dict[str, Any]:
    """Do the same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--model", model, "--inside", cache],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(model: str, repeat: int) -> dict[str, Any]:
    """Return the runs of each way, and the medians of their seconds."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    run_apart(model, "off")  # thrown away: it fills the system's file cache
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:  # in turns, so that a busy minute hits all of them
                runs[way].append(run_apart(model, "off" if way == "off" else folder))
    return {
        way: {
            f"median_{clock}": {
                name: round(median(one[clock][name] for one in found), 3)
                for name in found[0][clock]
            }
            for clock in ("seconds", "cpu_seconds")
        }
        | {
            "text_encoder_loaded": found[0]["text_encoder_loaded"],
            "imported": found[0]["imported"],
            "runs": found,
        }
        for way, found in runs.items()
    }


def main() -> None:
    """Read the options, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", metavar="CACHE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        print(json.dumps(run_here(options.model, options.inside)))
        return
    found = measure(options.model, options.repeat)
    for clock in ("seconds", "cpu_seconds"):
        names = list(found["off"][f"median_{clock}"])
        print(f"{clock:12}" + "".join(f"{name:>14}" for name in names) + "  text encoder")
        for way in WAYS:
            seconds = found[way][f"median_{clock}"]
            row = "".join(f"{seconds[name]:14.2f}" for name in names)
            is_loaded = found[way]["text_encoder_loaded"]
            print(f"{way:12}{row}  {'loaded' if is_loaded else 'not loaded'}")
    if options.json is not None:
        import torch

        record = {
            "model": options.model,
            "steps": STEPS,
            "repeat": options.repeat,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "ways": found,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
