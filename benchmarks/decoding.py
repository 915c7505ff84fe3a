"""Measure the temporal VAE: whole clips against pieces in their surroundings and plain chunks.

    python benchmarks/decoding.py [--rounds 5] [--long] [--json FILE]

First decoders of full size are traced on meta tensors, call by call as the size of a clip plans
them: the most bytes alive at once, and the numbers of the largest tensor, which kernels can count
up to 2^31. Then the starter's decoder runs on the CPU, one thread: processor time (the ways take
turns, median of the rounds), the peak of the resident size in a process for each way, and how far
a pixel in 0..1 is from the clip decoded whole, on random latents. `--long` adds 256 frames.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measuring.core import ROOT, import_core
from measuring.counting import AttentionAsOneOp
from measuring.memory import ENVIRONMENT, MIB, LiveBytes, reset_peak, resident_bytes
from memory import DTYPE, VAE

STARTER = ROOT / "latte_core" / "assets" / "starter"
CELLS = 8  # the edge of the starter's latents
WHOLE = 4096  # frames: as many as there are
WAYS: dict[str, int | None] = {"whole": WHOLE, "pieces": None, "chunks of 14": 14}
SEEDS = 4
CLIPS = ((16, 512, 512), (64, 512, 512), (64, 768, 768), (64, 1024, 1024), (64, 576, 1024))


class Sizes(LiveBytes):
    """Follows bytes, and keeps the numbers of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        made = [one.numel() for one in tree_leaves(out) if isinstance(one, Tensor)]
        self.largest = max(self.largest, *made, 0)
        return out


def make_decoder(*, temporal: bool, dtype: torch.dtype, **changes: Any) -> Any:
    """Return diffusers' class without weights, in Latte-1's shape but for `changes`."""
    import diffusers

    shape = {**VAE, **changes}
    blocks = len(shape["block_out_channels"])
    more: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * blocks}
    make: Any = diffusers.AutoencoderKLTemporalDecoder
    if not temporal:
        make = diffusers.AutoencoderKL
        more["up_block_types"] = ("UpDecoderBlock2D",) * blocks
    with torch.device("meta"):
        # its mixing factors are on the CPU whatever the default device is
        return torch.nn.Module.to(make(**shape, **more), device="meta", dtype=dtype)


@torch.no_grad()
def trace(module: Any, num_frames: int, height: int, width: int) -> Sizes:
    """Trace one call on frames of so many cells."""
    dtype = module.decoder.conv_in.weight.dtype
    options = {"num_frames": num_frames} if hasattr(module.decoder, "time_conv_out") else {}
    sizes = Sizes()
    with torch.device("meta"), AttentionAsOneOp(), sizes:
        module.decode(torch.empty(num_frames, 4, height, width, dtype=dtype), **options)
    return sizes


def trace_clip(module: Any, num_frames: int, height: int, width: int) -> dict[str, Any]:
    """Trace the largest call that a clip of so many pixels needs, whole and as planned."""
    pieces, tiling = import_core("vae.pieces"), import_core("vae.tiling")
    decoder = pieces.Decoder.of(VAE["block_out_channels"], is_temporal=True)
    clip = pieces.ClipSize(num_frames=num_frames, height=height // 8, width=width // 8)
    plan = pieces.plan_by_size(clip, decoder)
    chunks = tiling.frame_chunks(num_frames, plan.chunk, plan.context)
    most = max(chunk.read[1] - chunk.read[0] for chunk in chunks)
    sides = [
        side if plan.tile is None else min(plan.tile, side) for side in (clip.height, clip.width)
    ]
    found: dict[str, Any] = {
        "frames_kept": plan.chunk,
        "surroundings": plan.context,
        "tile_pixels": None if plan.tile is None else plan.tile * 8,
    }
    for way, call in {
        "pieces": (most, *sides),
        "whole": (num_frames, clip.height, clip.width),
    }.items():
        sizes = trace(module, *call)
        found[way] = {"bytes": sizes.peak, "largest_tensor": sizes.largest}
    return found


def open_starter() -> Any:
    """Return the starter's temporal VAE in float32 on the CPU."""
    read = import_core("checkpoint.reading.reader").read_tensors
    return import_core("vae.frames").VideoVAE.from_folder(
        STARTER / "vae_temporal_decoder", read=lambda path: dict(read(path).tensors)
    )


def random_latents(num_frames: int, seed: int = 0) -> Tensor:
    """Return latents of one clip."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, num_frames, CELLS, CELLS, generator=generator)


def measure_times(vae: Any, num_frames: int, rounds: int) -> dict[str, float]:
    """Return CPU-seconds by way; the ways take turns."""
    latents = random_latents(num_frames)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, chunk in WAYS.items():
            start = time.process_time()
            vae.decode(latents, chunk=chunk)
            if number:  # the first round warms up
                taken[way].append(time.process_time() - start)
    return {way: round(statistics.median(times), 3) for way, times in taken.items()}


def measure_difference(vae: Any, num_frames: int) -> dict[str, dict[str, float]]:
    """Return the largest and the mean difference of a pixel from the clip decoded whole."""
    worst = {way: 0.0 for way in WAYS if way != "whole"}
    total = dict(worst)
    for seed in range(SEEDS):
        latents = random_latents(num_frames, seed)
        whole = vae.decode(latents, chunk=WHOLE)
        for way in worst:
            difference = (vae.decode(latents, chunk=WAYS[way]) - whole).abs()
            worst[way] = max(worst[way], float(difference.max()))
            total[way] += float(difference.mean()) / SEEDS
    return {way: {"largest": round(worst[way], 4), "mean": round(total[way], 6)} for way in worst}


def measure_peak(way: str, num_frames: int) -> int:
    """Return how far the resident size rises during one call, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", way, "--frames", str(num_frames)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ENVIRONMENT},
    )
    return int(done.stdout.splitlines()[-1])


def peak_here(way: str, num_frames: int) -> int:
    """Return how far the resident size of this process rises during one call."""
    vae = open_starter()
    vae.decode(random_latents(2), chunk=WAYS[way])  # what the first call sets up for good
    latents = random_latents(num_frames)
    before = resident_bytes("VmRSS")
    reset_peak()
    vae.decode(latents, chunk=WAYS[way])
    return resident_bytes("VmHWM") - before


def measure_starter(counts: list[int], rounds: int) -> dict[str, Any]:
    """Measure the starter's decoder on clips of so many frames, and print what was found."""
    vae = open_starter()
    found: dict[str, Any] = {}
    for count in counts:
        times = measure_times(vae, count, rounds)
        peaks = {way: measure_peak(way, count) for way in WAYS}
        found[f"{count} frames"] = {
            "cpu_seconds": times,
            "peak_bytes": peaks,
            "from_whole": measure_difference(vae, count),
        }
        print(f"\n{count} frames of the starter, 64 x 64")
        for way in WAYS:
            ratio = times[way] / times["pieces"]
            print(f"  {way:14}{times[way]:8.2f} s ({ratio:.2f}){peaks[way] / MIB:9.0f} MiB")
        for way, values in found[f"{count} frames"]["from_whole"].items():
            print(f"  {way:14}from whole: {values['largest']:.4f}, mean {values['mean']:.6f}")
    return found


def main() -> None:
    """Read the options, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help="256 frames too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of is not None:
        print(peak_here(options.peak_of, options.frames))
        return
    record: dict[str, Any] = {"torch": torch.__version__, "dtype": str(DTYPE), "traced": {}}
    module = make_decoder(temporal=True, dtype=DTYPE)
    for num_frames, height, width in CLIPS:
        name = f"{num_frames} frames of {width} x {height}"
        record["traced"][name] = found = trace_clip(module, num_frames, height, width)
        print(f"{name}: {found['frames_kept']} frames at a time, tiles: {found['tile_pixels']}")
        for way in ("pieces", "whole"):
            size, largest = found[way]["bytes"] / MIB, found[way]["largest_tensor"]
            print(f"  {way:8}{size:10.0f} MiB, largest tensor {largest / 2**31:.2f} x 2^31")
    counts = [16, 64, 256] if options.long else [16, 64]
    record["starter"] = measure_starter(counts, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
