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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from op_count import LATTE_1, import_core

LAYERS, BATCH, FRAMES, CELLS, TOKENS = 1, 4, 16, 16, 20
ROWS = BATCH * FRAMES * (CELLS // 2) ** 2
CHUNKS = 8
WAYS = ("diffusers", "ours", "ours, feed-forward in 8 parts")
# One thread, and a C library that gives freed memory back at once: else the peak hides in it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
MIB = 2**20
GB = 1e9


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
    from memory import LiveBytes

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


def resident_bytes(entry: str) -> int:
    """Return the resident size of this process (VmRSS) or its peak (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {entry}.")


def reset_peak() -> None:
    """Let the peak begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


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
    from measuring.card import Card  # which needs this module

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


class StagePeaks:
    """Peaks of encoding with the first step, of the other steps, and of decoding.

    Args:
        pipeline: whose `decode` tells when sampling is over.
        card: what tells peaks, as `measuring.card.Card` does.
    """

    def __init__(self, pipeline: Any, card: Any) -> None:
        self.peaks: dict[str, int] = {}
        self._card = card
        self._stage = "text encoder and first step"
        self._decode = pipeline.decode
        pipeline.decode = self._on_decode

    def start(self) -> None:
        """Begin with the first stage."""
        self._card.start_peak()

    def on_step(self, _: Any) -> None:
        """Go on to the stage of the other steps; a `StepCallback`."""
        self._next("other steps")

    def stop(self) -> None:
        """End the last stage."""
        self._next("")

    def _on_decode(self, latents: Tensor, **options: Any) -> Tensor:
        self._next("decoding")
        return self._decode(latents, **options)

    def _next(self, stage: str) -> None:
        peak, _ = self._card.peak()
        self.peaks[self._stage] = max(peak, self.peaks.get(self._stage, 0))
        self._card.start_peak()
        self._stage = stage


def main() -> None:
    """Run one way and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("way", choices=WAYS)
    print(json.dumps(asdict(run_here(parser.parse_args().way))))


if __name__ == "__main__":
    main()
