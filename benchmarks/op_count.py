"""Count what one forward pass of a Latte launches, moves and multiplies, without running it.

    python benchmarks/op_count.py [--tokens 20] [--json FILE]

Latte-1 in both classes, diffusers' LatteTransformer3DModel and ours in several ways of calling it,
is traced on meta tensors at full size: 16 frames of 512 x 512, 2 videos as under guidance,
bfloat16. So is the class model, see `op_count_class.py`. Nothing is timed, so the figures are the
same on every machine.

`measuring/counting.py` has the rule by which it is counted. Text and positions are prepared before
the pass where the class can be given them. What was counted how is printed for each operator of
those ways.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring.core import import_core
from measuring.counting import ATTENTIONS, GEMMS, OpCounter, count
from op_count_class import class_ways
from torch import Tensor
from ways.transformer import LATTE_1

BATCH, FRAMES, CELLS, TEXT_WIDTH = 2, 16, 64, 4096
DTYPE = torch.bfloat16
EIGHT_BIT = {  # how the layers of each way multiply: format, product, our kernels
    "ours, fp8 by our product": ("fp8", "triton", True),
    "ours, fp8 by _scaled_mm": ("fp8", "scaled_mm", True),
    "ours, int8 by our product": ("int8", "triton", True),
    "ours, int8 by _int_mm": ("int8", "int_mm", True),
    "ours, int8 without kernels": ("int8", "int_mm", False),
}


def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, timesteps and text of a guided step, on meta."""
    latents = torch.empty(BATCH, 4, FRAMES, CELLS, CELLS, dtype=DTYPE, device="meta")
    timesteps = torch.zeros(BATCH, dtype=torch.int64, device="meta")
    return latents, timesteps, torch.empty(BATCH, tokens, TEXT_WIDTH, dtype=DTYPE, device="meta")


def count_diffusers(tokens: int) -> OpCounter:
    """Count diffusers' class."""
    import diffusers

    with torch.device("meta"):
        model = diffusers.LatteTransformer3DModel(**LATTE_1, video_length=FRAMES).to(DTYPE)
    given = inputs(tokens)
    return count(lambda: model(*given))


def prepare_ours(
    tokens: int,
    *,
    as_sampled: bool = True,
    fused: bool = False,
    own_attention: bool = False,
    kernels: bool = False,
    eight_bit: tuple[str, str, bool] | None = None,
) -> Callable[[], Tensor]:
    """Return a call of our class on meta tensors, with text and places handed in.

    Args:
        tokens: of each prompt.
        as_sampled: as the pipeline calls it under guidance: one timestep for all videos, the first
            self-attention shared, noise alone. False is one timestep per video.
        fused: after `fuse_qkv`.
        own_attention: a host does the attention.
        kernels: with our fused kernels.
        eight_bit: format, product and whether our kernels quantise, as in `EIGHT_BIT`.
    """
    choice = import_core("kernels.choice")
    attention = import_core("model.attention")
    with torch.device("meta"):
        model = import_core("model.t2v.transformer").LatteT2V.from_config(LATTE_1, dtype=DTYPE)
        if fused:
            import_core("model.weights.fused_qkv").fuse_qkv(model)
    if eight_bit is not None:
        name, product, with_kernels = eight_bit
        backend = import_core("precision.matmul").Backend(name=product, with_kernels=with_kernels)
        import_core("precision.quantize").quantize(model, name, backend=backend)
    model.kernels = choice.KernelSet(choice.KernelUse.ALWAYS if kernels else choice.KernelUse.NEVER)
    latents, timesteps, context = inputs(tokens)
    more: dict[str, Any] = {
        "text": model.project_text(context),
        "places": model.place_tables(latents.shape, "meta"),
    }
    if as_sampled:
        timesteps = timesteps[:1]
        more |= {"shared_input": True, "noise_only": True}
    if own_attention:

        def attend(*args: Any, **kwargs: Any) -> Tensor:
            return attention.scaled_dot_product(*args, **kwargs)

        more["hooks"] = attention.BlockHooks(attention=attend)
    return torch.no_grad()(lambda: model(latents, timesteps, **more))


def count_ours(tokens: int, **way: Any) -> OpCounter:
    """Count what `prepare_ours` prepares."""
    return count(prepare_ours(tokens, **way))


def count_eight_bit(tokens: int, way: tuple[str, str, bool]) -> OpCounter:
    """Count our class with kernels and layers in eight bits."""
    return count_ours(tokens, kernels=True, eight_bit=way)


def ways() -> dict[str, Callable[[int], OpCounter]]:
    """Return what is counted, by name: each takes the tokens of a prompt."""
    return {
        "diffusers": count_diffusers,
        "ours, a host's attention": lambda n: count_ours(n, as_sampled=False, own_attention=True),
        "ours, a timestep per video": lambda n: count_ours(n, as_sampled=False),
        "ours, as the pipeline samples": count_ours,
        "ours, the same with fused QKV": lambda n: count_ours(n, fused=True),
        "ours, fused QKV and kernels": lambda n: count_ours(n, fused=True, kernels=True),
        **{name: partial(count_eight_bit, way=way) for name, way in EIGHT_BIT.items()},
    }


def report(counters: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Print a table line for each counter, and return its figures by name."""
    print(f"{'':32}launches  GEMMs  other GB  GEMM GB    TFLOP")
    figures: dict[str, Any] = {}
    for name, counter in counters:
        found = counter.counts()
        print(
            f"{name:32}{found.launches:8}{found.gemms:7}{found.other_gb:10.2f}"
            f"{found.gemm_gb:9.2f}{found.tflop:9.3f}"
        )
        if name in EIGHT_BIT:
            for operator, launches, size, kind in counter.by_operator():
                print(f"    {operator:28}{launches:8}{size:10.2f} GB, {kind}")
        figures[name] = asdict(found) | {
            "other_gb_by_operator": {
                operator: round(size / 1e9, 3)
                for operator, size in counter.bytes.most_common()
                if operator not in (*GEMMS, *ATTENTIONS)
            }
        }
    return figures


def main() -> None:
    """Read the options, count, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=20, help="text tokens of each prompt")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"tokens": options.tokens, "torch": torch.__version__}
    print("Latte-1, 16 x 512 x 512, guided")
    record["ways"] = report((name, way(options.tokens)) for name, way in ways().items())
    print("\nLatte-XL/2 with classes, 16 x 256 x 256")
    record["class_ways"] = report((name, way()) for name, way in class_ways().items())
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
