"""Measure everything that has to be measured on a GPU, in the order of its worth, in one go.

    python benchmarks/gpu.py --output gpu_NAME.json
    python benchmarks/gpu.py --output gpu_NAME.json --sections 9 --deadline 200
    python benchmarks/gpu.py --rehearse --output rehearsal.json

Needs torch; diffusers, transformers and Pillow for some sections, which say so where they are
missing; no network and no weights. Every section may fail without taking the others along. What was
found is written after every measurement, so that a run that is stopped leaves what it had: the JSON
file, and beside it a sheet of pictures (`.sheet.png`) and tables of a profiler (`.profile.txt`).
Sections that do not fit in what is left of the deadline are skipped and named; a later run with the
same --output adds them. A rehearsal runs all of it with tiny models on the CPU; its numbers mean
nothing. `gpu_tables.py` writes the tables of the documentation from the JSON files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from gpu_sections import (
    attention,
    class_models,
    compiled,
    decoders,
    full_size,
    presets,
    starters,
    traffic,
    whole_run,
)
from gpu_sections.session import Section, Session, run_section
from gpu_sections.sizes import FULL, REHEARSAL, SHORT, Sizes
from gpu_sections.weights import ModelFolder
from measuring.card import Card
from measuring.core import import_core

SECTIONS = (
    Section(number=1, name="attention and tests", needs=40, most=130, run=attention.run),
    Section(number=2, name="starters and samplers", needs=20, most=60, run=starters.run),
    Section(number=3, name="full size", needs=50, most=130, run=full_size.run),
    Section(number=4, name="prompt to frames", needs=50, most=110, run=whole_run.run),
    Section(number=5, name="memory presets", needs=40, most=110, run=presets.run),
    Section(number=6, name="decoders", needs=15, most=50, run=decoders.run),
    Section(number=7, name="class models and training", needs=20, most=70, run=class_models.run),
    Section(number=8, name="traffic", needs=15, most=40, run=traffic.run),
    Section(number=9, name="compiled", needs=40, most=400, run=compiled.run),
)
TRITON = "triton"
PACKAGES = ("diffusers", "transformers", "accelerate", "triton", "numpy", "safetensors", "pillow")
OPTIONAL = {
    "diffusers": "diffusers' class and pipeline, and both VAEs (sections 3, 4, 5, 6 and 9)",
    "transformers": "text encoders (sections 2, 4 and 5)",
    TRITON: "the fused kernels",
    "PIL": "the sheet of pictures",
    "ftfy": "cleaned prompts (sections 2 to 5)",
    "bs4": "cleaned prompts (sections 2 to 5)",
    "pytest": "the tests for a GPU",
}


def options_given(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON to write")
    parser.add_argument("--deadline", type=float, default=480.0, help="seconds for all of it")
    parser.add_argument("--sections", default="", help="numbers with commas (default: all)")
    parser.add_argument("--device", help="default: cuda, or the CPU in a rehearsal")
    parser.add_argument("--scratch", type=Path, help="folder for 12 GB of random weights")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--short", action="store_true", help="of a rehearsal: nothing is compiled")
    given = parser.parse_args(arguments)
    known = {str(one.number) for one in SECTIONS}
    given.sections = [one.strip() for one in given.sections.split(",") if one.strip()]
    if not set(given.sections) <= known:
        parser.error(f"--sections takes {', '.join(sorted(known))}, and got {given.sections}.")
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("this torch sees no GPU. Try the script with --rehearse.")
    given.device = given.device or ("cpu" if given.rehearse else "cuda")
    return given


def earlier_record(path: Path, sizes: Sizes) -> dict[str, Any]:
    """Return what an earlier run of the same kind left in the file, to be added to."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("sizes") != sizes.name:
        raise SystemExit(
            f"{path.name} holds results of the sizes {found.get('sizes')!r}, and this run has "
            f"{sizes.name!r}. Choose another --output."
        )
    return {**found, "left_out": []}


def is_missing(name: str) -> bool:
    """Whether a package is not installed, or does not import."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        return True
    return False


def versions() -> dict[str, str | None]:
    """Return the versions of what takes part; None for what is missing."""
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    import_core("errors")
    return {**found, "latte_core": sys.modules["latte_core"].__version__}


def main(arguments: list[str] | None = None) -> int:
    """Run the sections that were asked for; return 1 if one of them failed."""
    given = options_given(arguments)
    sizes = FULL if not given.rehearse else SHORT if given.short else REHEARSAL
    if sizes.threads is not None:
        torch.set_num_threads(sizes.threads)
    card = Card(given.device)
    record = {
        **earlier_record(given.output, sizes),
        "sizes": sizes.name,
        **card.about(),
        "system": platform.platform(),
        "versions": versions(),
        "deadline": given.deadline,
    }
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        session = Session(
            card=card,
            sizes=sizes,
            output=given.output,
            deadline=given.deadline,
            models=ModelFolder(Path(scratch), sizes, given.device, getattr(torch, sizes.dtypes[0])),
            missing=tuple(
                name for name in OPTIONAL if (card.is_gpu or name != TRITON) and is_missing(name)
            ),
            record=record,
        )
        for name in session.missing:
            session.leave_out(f"{OPTIONAL[name]}: {name} is not installed, or does not import")
        session.say(f"{record['device']}, torch {torch.__version__}, {sizes.name} sizes")
        session.save()
        chosen = [
            one for one in SECTIONS if not given.sections or str(one.number) in given.sections
        ]
        for section in chosen:
            run_section(session, section)
        states = {one.number: session.record["sections"][str(one.number)] for one in chosen}
        for number, found in states.items():
            session.say(f"section {number}: {found['state']}, {found.get('seconds', 0)} s")
        for name, value in session.record["figures"].items():
            print(f"{name:24}{value}", flush=True)
    return int(any(found["state"] == "failed" for found in states.values()))


if __name__ == "__main__":
    raise SystemExit(main())
