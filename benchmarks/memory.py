"""Measure how much memory Latte works in beside its weights, next to diffusers' class.

    python benchmarks/memory.py [--json FILE] [--no-runs]
    python benchmarks/memory.py --model FOLDER [--presets 24 12 8 6 4] [--json FILE]

The first form needs no accelerator. One call of each class is traced on meta tensors at full size,
and every storage that is made and freed on the way is followed: the highest sum of those alive is
the peak. That is what the call needs at least; what kernels and allocators take on top of it is
not in it, and neither are weights and inputs. Then a small model really runs in processes of its
own, whose peak resident size shows that the traced differences arrive. The second form makes one
video of a model under each preset and asks the accelerator what the peak was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measuring.core import import_core
from measuring.memory import MIB, peak_of
from memory_runs import measure_presets, measure_runs
from ways.transformer import LATTE_1

FRAMES, TOKENS, TEXT_WIDTH = 16, 20, 4096
DTYPE = torch.bfloat16
MARGIN = 1.2  # on the figure that ComfyUI is told
CHUNKS = 8  # of the feed-forward layer
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of the transformer.

    Args:
        batch: videos, 2 under guidance.
        pixels: edge of a frame.
    """

    batch: int
    pixels: int

    @property
    def cells(self) -> int:
        """Edge of a frame in latent cells."""
        return self.pixels // 8

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.batch} x {FRAMES} x {self.pixels} x {self.pixels}"

    @property
    def rows(self) -> int:
        """Tokens of the whole batch."""
        return self.batch * FRAMES * (self.cells // 2) ** 2

    @property
    def area(self) -> int:
        """What ComfyUI multiplies its factor with: latent cells of the whole batch."""
        return self.batch * FRAMES * self.cells**2

    def latents(self, device: str = "meta") -> Tensor:
        """Return latents of this size."""
        return torch.empty(
            self.batch, 4, FRAMES, self.cells, self.cells, dtype=DTYPE, device=device
        )


CASES = tuple(Case(batch=batch, pixels=pixels) for pixels in (512, 256) for batch in (2, 1))


def timesteps(count: int) -> Tensor:
    """Return timesteps for `count` videos."""
    return torch.zeros(count, dtype=torch.int64, device="meta")


def text(count: int) -> Tensor:
    """Return text features of `count` prompts."""
    return torch.empty(count, TOKENS, TEXT_WIDTH, dtype=DTYPE, device="meta")


def trace_diffusers(case: Case) -> int:
    """Trace diffusers' class."""
    import diffusers

    with torch.device("meta"):
        model = diffusers.LatteTransformer3DModel(**LATTE_1, video_length=FRAMES)
        torch.nn.Module.to(model, DTYPE)  # its own `to` warns of layers that there are not
    given = case.latents(), timesteps(case.batch), text(case.batch)
    return peak_of(lambda: model(*given))


def host_hooks() -> Any:
    """Return hooks as ComfyUI's glue makes them: attention is the host's."""
    attention = import_core("model.attention")

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        return attention.scaled_dot_product(*args, **kwargs)

    return attention.BlockHooks(attention=attend)


def trace_ours(
    case: Case, *, chunked: bool = False, hosted: bool = False, kernels: bool = False
) -> int:
    """Trace our text-to-video class.

    Args:
        case: the size.
        chunked: the feed-forward layers work in eight parts.
        hosted: as ComfyUI calls it; else as our pipeline does.
        kernels: with our fused kernels.
    """
    with torch.device("meta"):
        model = import_core("model.t2v.transformer").LatteT2V.from_config(LATTE_1, dtype=DTYPE)
    if kernels:
        choice = import_core("kernels.choice")
        model.kernels = choice.KernelSet(choice.KernelUse.ALWAYS)
    if chunked:
        import_core("model.layers").set_feed_forward_rows(model, case.rows // CHUNKS)
    latents, context = case.latents(), text(case.batch)
    if hosted:
        times, hooks = timesteps(case.batch), host_hooks()
        return peak_of(lambda: model(latents, times, context, hooks=hooks))
    more: dict[str, Any] = {
        "text": model.project_text(context),
        "places": model.place_tables(latents.shape, "meta"),
        "shared_input": case.batch == 2,
        "noise_only": True,
    }
    times = timesteps(1)
    return peak_of(lambda: model(latents, times, **more))


def trace_class_model(case: Case) -> int:
    """Trace the class-conditional Latte-XL/2 as ComfyUI calls it."""
    config = import_core("config.latte").LatteConfig(
        input_size=32, conditioning="class", num_classes=101, num_frames=FRAMES
    )
    with torch.device("meta"):
        model = import_core("model.latte.transformer").Latte(config, dtype=DTYPE)
    latents, times, hooks = case.latents(), timesteps(case.batch), host_hooks()
    labels = torch.zeros(case.batch, dtype=torch.int64, device="meta")
    return peak_of(lambda: model(latents, times, labels, hooks=hooks))


def trace_decode(num_frames: int, pixels: int, *, temporal: bool) -> int:
    """Trace one call of a VAE decoder, in bfloat16."""
    import diffusers

    blocks = len(VAE["block_out_channels"])
    more: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * blocks}
    if temporal:
        make: Any = diffusers.AutoencoderKLTemporalDecoder
    else:
        make = diffusers.AutoencoderKL
        more["up_block_types"] = ("UpDecoderBlock2D",) * blocks
    with torch.device("meta"):
        # its mixing factors are on the CPU whatever the default device is
        module = torch.nn.Module.to(make(**VAE, **more), device="meta", dtype=DTYPE)
        latents = torch.empty(num_frames, 4, pixels // 8, pixels // 8, dtype=DTYPE)
    options = {"num_frames": num_frames} if temporal else {}
    with torch.device("meta"):  # for what the decoder makes on the way
        return peak_of(lambda: module.decode(latents, **options).sample)


def comfyui_factor(peaks: dict[str, int]) -> float:
    """Return the smallest factor that covers every peak with the margin.

    Args:
        peaks: bytes by the name of a case.

    ComfyUI reserves `area * bytes per number * 0.01 * factor` MiB.
    """
    cases = {case.name: case for case in CASES}
    needed = [
        MARGIN * peak / (cases[name].area * DTYPE.itemsize * 0.01 * MIB)
        for name, peak in peaks.items()
    ]
    return max(needed)


def trace_all() -> dict[str, Any]:
    """Trace every class at every size; bytes by class and case."""
    ways: dict[str, Callable[[Case], int]] = {
        "diffusers": trace_diffusers,
        "ours": trace_ours,
        "ours, feed-forward in 8 parts": lambda case: trace_ours(case, chunked=True),
        "ours, fused kernels": lambda case: trace_ours(case, kernels=True),
        "ours, fused kernels, feed-forward in 8 parts": lambda case: trace_ours(
            case, kernels=True, chunked=True
        ),
        "ours in ComfyUI": lambda case: trace_ours(case, hosted=True),
        "ours in ComfyUI, feed-forward in 8 parts": lambda case: trace_ours(
            case, hosted=True, chunked=True
        ),
        "class model in ComfyUI": trace_class_model,
    }
    return {name: {case.name: way(case) for case in CASES} for name, way in ways.items()}


def trace_decoders() -> dict[str, int]:
    """Trace both decoders for several frames and sizes."""
    found: dict[str, int] = {}
    for kind, counts in (("image", (1, 4, 16)), ("temporal", (4, 14, 16))):
        for pixels in (512, 256, 128):
            for count in counts:
                name = f"{kind}, {count} frames of {pixels} x {pixels}"
                found[name] = trace_decode(count, pixels, temporal=kind == "temporal")
    return found


def show(title: str, rows: dict[str, int]) -> None:
    """Print a table of bytes as MiB."""
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"  {name:44}{value / MIB:10.1f} MiB")


def main() -> None:
    """Read the options, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-runs", action="store_true", help="leave out the processes")
    parser.add_argument("--model", help="measure presets with this model on the accelerator")
    parser.add_argument("--presets", nargs="+", default=["24", "12", "8", "6", "4"])
    options = parser.parse_args()
    record: dict[str, Any] = {"torch": torch.__version__}
    if options.model is not None:
        record["presets"] = measure_presets(options.model, options.presets)
    else:
        record |= {"dtype": str(DTYPE), "tokens": TOKENS, "frames": FRAMES}
        record["forward_bytes"] = trace_all()
        for name, rows in record["forward_bytes"].items():
            show(name, rows)
        record["decode_bytes"] = trace_decoders()
        show("one call of a VAE decoder", record["decode_bytes"])
        hosted = record["forward_bytes"]["ours in ComfyUI"]
        by_class = record["forward_bytes"]["class model in ComfyUI"]
        record["comfyui_factor"] = {
            "text": round(comfyui_factor(hosted), 3),
            "class": round(comfyui_factor(by_class), 3),
            "margin": MARGIN,
        }
        print(f"\nComfyUI's memory factor: {record['comfyui_factor']}")
        if not options.no_runs:
            record["runs"] = [asdict(run) for run in measure_runs()]
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
