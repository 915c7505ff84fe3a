"""Time LatteT2V against diffusers' LatteTransformer3DModel with the same weights, in one process.

    python benchmarks/transformer.py [--layers 2] [--pairs 12] [--tokens 120]

Both models run in turn, the order changing from pair to pair, after a warm-up. Printed are the
median of the pairwise ratios (above 1: ours is faster) in CPU and wall seconds, and the largest
difference of the outputs. The reduced model keeps Latte-1's block shape in 8 heads x 72 at 32 x 32
latent cells, 16 frames and 2 videos.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent


def import_core() -> Any:
    """Import latte_core by file location; the repository root stays off sys.path."""
    spec = importlib.util.spec_from_file_location(
        "latte_core",
        ROOT / "latte_core" / "__init__.py",
        submodule_search_locations=[str(ROOT / "latte_core")],
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["latte_core"] = module
    spec.loader.exec_module(module)
    return importlib.import_module("latte_core.model.latte_t2v")


def reduced_config(layers: int) -> dict[str, Any]:
    """Return Latte-1's config with 8 heads, few layers and narrow text."""
    return {
        "num_layers": layers,
        "num_attention_heads": 8,
        "attention_head_dim": 72,
        "cross_attention_dim": 576,
        "caption_channels": 512,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 64,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
    }


def timed(call: Callable[[], Tensor]) -> tuple[float, float]:
    """Return CPU-seconds and wall seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


@torch.no_grad()
def compare(layers: int, pairs: int, tokens: int, seed: int) -> dict[str, Any]:
    """Run the interleaved pairs and return the figures."""
    import diffusers

    torch.manual_seed(seed)
    config = reduced_config(layers)
    theirs = diffusers.LatteTransformer3DModel(**config, video_length=16).eval()
    ours = import_core().LatteT2V.from_config(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latents, timesteps = torch.randn(2, 4, 16, 32, 32), torch.tensor([500, 500])
    context = torch.randn(2, tokens, 512)

    def run_ours() -> Tensor:
        return ours(latents, timesteps, context)

    def run_theirs() -> Tensor:
        return theirs(latents, timesteps, context).sample

    difference = float((run_ours() - run_theirs()).abs().max())
    cpu_ratios, wall_ratios = [], []
    for index in range(pairs):
        order = (run_ours, run_theirs) if index % 2 else (run_theirs, run_ours)
        times = {call: timed(call) for call in order}
        cpu_ratios.append(times[run_theirs][0] / times[run_ours][0])
        wall_ratios.append(times[run_theirs][1] / times[run_ours][1])
    return {
        "ratio_cpu_median": statistics.median(cpu_ratios),
        "ratio_wall_median": statistics.median(wall_ratios),
        "ratio_cpu_all": [round(value, 3) for value in cpu_ratios],
        "max_difference": difference,
        "layers": layers,
        "pairs": pairs,
        "tokens": tokens,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "machine": f"{platform.machine()} {platform.system()}",
    }


def main() -> None:
    """Read the options, run, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = compare(options.layers, options.pairs, options.tokens, options.seed)
    print(json.dumps(figures, indent=2))
    print(f"diffusers / ours, CPU-seconds, median: {figures['ratio_cpu_median']:.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
