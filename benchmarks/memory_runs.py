"""The parts of `memory.py` that really run: small models in processes of their own, and presets.

python benchmarks/memory_runs.py WAY    (one such process; prints its figures as JSON)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from measuring.card import GB, Card, StagePeaks
from measuring.core import import_core
from measuring.memory import ENVIRONMENT, MIB, LiveBytes, reset_peak, resident_bytes
from ways.transformer import LATTE_1

LAYERS, BATCH, FRAMES, CELLS, TOKENS = 1, 4, 16, 16, 20
ROWS = BATCH * FRAMES * (CELLS // 2) ** 2
CHUNKS = 8
WAYS = ("diffusers", "ours", "ours, feed-forward in 8 parts")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process.

    Args:
        way: what ran.
        traced_bytes: peak of the same call, traced.
        resident_bytes: how much the resident size rose to its peak during the call.
    """

    way: str
    traced_bytes: int
    resident_bytes: int


def make_call(way: str) -> Any:
    """Return a call of a model of one pair of blocks, in float32."""
    config = {**LATTE_1, "num_layers": LAYERS, "sample_size": CELLS}
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(BATCH, 4, FRAMES, CELLS, CELLS, generator=generator)
    text = torch.randn(BATCH, TOKENS, LATTE_1["caption_channels"], generator=generator)
    times = torch.full((BATCH,), 500)
    if way == "diffusers":
        import diffusers

        model: Any = diffusers.LatteTransformer3DModel(**config, video_length=FRAMES)
    else:
        model = import_core("model.t2v.transformer").LatteT2V.from_config(config)
        if way != "ours":
            import_core("model.layers").set_feed_forward_rows(model, ROWS // CHUNKS)
    return lambda: model(latents, times, text)


@torch.no_grad()
def run_here(way: str) -> Run:
    """Trace a call, and run it."""
    call = make_call(way)
    call()  # what the first call sets up for good is not counted
    before = resident_bytes("VmRSS")
    reset_peak()
    call()
    risen = resident_bytes("VmHWM") - before
    live = LiveBytes()
    with live:
        call()
    return Run(way=way, traced_bytes=live.peak, resident_bytes=risen)


def measure_runs() -> list[Run]:
    """Run each way in a process of its own and print the figures."""
    found: list[Run] = []
    print(f"\na pair of blocks in float32, {BATCH} x {FRAMES} x {8 * CELLS} x {8 * CELLS}")
    for way in WAYS:
        done = subprocess.run(
            [sys.executable, __file__, way],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **ENVIRONMENT},
        )
        run = Run(**json.loads(done.stdout.splitlines()[-1]))
        found.append(run)
        print(
            f"  {way:32}traced {run.traced_bytes / MIB:7.1f} MiB, "
            f"resident {run.resident_bytes / MIB:7.1f} MiB"
        )
    return found


def measure_presets(model: str, presets: list[str]) -> dict[str, Any]:
    """Make a video under each preset; return and print peaks on the accelerator by stage."""
    if not torch.cuda.is_available():
        raise SystemExit("Presets are measured on an NVIDIA or AMD card, and there is none here.")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    pipeline_class: Any = import_core("pipelines.text.pipeline").Pipeline
    for name in presets:
        pipeline = pipeline_class.from_pretrained(model, memory=name, embedding_cache="off")
        stages = StagePeaks(pipeline, Card("cuda"))
        stages.start()
        pipeline("a cat wearing sunglasses at a pool", num_steps=4, callback=stages.on_step)
        stages.stop()
        found[name] = {stage: peak for stage, peak in stages.peaks.items()}
        shown = ", ".join(f"{stage} {peak / GB:.2f} GB" for stage, peak in stages.peaks.items())
        print(f"preset {name:3} {shown}")
        del pipeline, stages
        torch.cuda.empty_cache()
    return found


def main() -> None:
    """Run one way and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", choices=WAYS)
    print(json.dumps(asdict(run_here(parser.parse_args().way))))


if __name__ == "__main__":
    main()
