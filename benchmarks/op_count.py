"""Count what one forward pass of a Latte launches, moves and multiplies, without running it.

    python benchmarks/op_count.py [--tokens 20] [--json FILE]

Latte-1 in both classes, diffusers' LatteTransformer3DModel and ours in several ways of calling it,
is traced on meta tensors at full size: 16 frames of 512 x 512, 2 videos as under guidance,
bfloat16. So is the class model, see `op_count_class.py`. Nothing is timed, so the figures are the
same on every machine.

The rule: views are free and every other operator is one launch. An operator moves its inputs plus
its outputs, each tensor once per mention. Attention is one operator, whose bytes are left out.
Those of matrix products (and of the patch convolution) are counted apart, because there arithmetic
sets the time. A multiply-add is two operations; attention counts its two products. Text and
positions are prepared before the pass where the class can be given them. A fused kernel of ours is
one operator too: a linear layer with its GELU is a matrix product, and attention across frames is
attention. Of layers in eight bits the product is a matrix product, whatever its kernel scales, adds
and casts before it writes; quantising tokens is not, nor is scaling the 32-bit sums of
torch._int_mm. What was counted how is printed for each operator of those ways.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parent.parent
BATCH, FRAMES, CELLS, TEXT_WIDTH = 2, 16, 64, 4096
DTYPE = torch.bfloat16
GEMMS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "linear_gelu"),
    *("eight_bit_linear", "_scaled_mm", "_int_mm"),
)
EIGHT_BIT = {  # how the layers of each way multiply: format, product, our kernels
    "ours, fp8 by our product": ("fp8", "triton", True),
    "ours, fp8 by _scaled_mm": ("fp8", "scaled_mm", True),
    "ours, int8 by our product": ("int8", "triton", True),
    "ours, int8 by _int_mm": ("int8", "int_mm", True),
    "ours, int8 without kernels": ("int8", "int_mm", False),
}
ATTENTIONS = ("attention", "attend_across_frames")
FREE = ("_unsafe_view",)  # a view whose schema does not say so
LATTE_1: dict[str, Any] = {
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "caption_channels": TEXT_WIDTH,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": CELLS,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Figures of one pass.

    Args:
        launches: operators that are no views, matrix products and attention among them.
        gemms, attentions: of those, matrix products and attention calls.
        other_gb: 10^9 bytes moved by all that is neither.
        gemm_gb: 10^9 bytes moved by matrix products.
        tflop: 10^12 operations.
    """

    launches: int
    gemms: int
    attentions: int
    other_gb: float
    gemm_gb: float
    tflop: float


def attention_shape(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return (B, N, rows, d), in memory with the heads of a row side by side as kernels do."""
    batch, heads, rows, _ = q.shape
    return q.new_empty(batch, rows, heads, v.shape[3]).transpose(1, 2)


def register_attention() -> Any:
    """Return an operator that stands for a fused attention kernel: never run, only traced.

    A second copy of this script finds the first one's operator. Registering it anew would take it
    from under the first, which then crashes, and so would letting it go with the script.
    """
    held: Any = torch.ops.latte_count
    if not hasattr(held, "attention"):
        held.library = torch.library.Library("latte_count", "FRAGMENT")
        held.library.define("attention(Tensor q, Tensor k, Tensor v, Tensor? bias) -> Tensor")
        torch.library.register_fake("latte_count::attention", attention_shape, lib=held.library)
    return held.attention.default


ATTENTION = register_attention()


class AttentionAsOneOp(TorchFunctionMode):
    """Puts `ATTENTION` in the place of torch's attention, which would fall apart on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
            return ATTENTION(given["query"], given["key"], given["value"], given.get("attn_mask"))
        return func(*args, **kwargs)


class OpCounter(TorchDispatchMode):
    """Counts operators by name, the bytes they move and their arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        name: str = packet.__name__
        if name in FREE or is_view(func):
            return out
        self.launches[name] += 1
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        self.bytes[name] += sum(one.numel() * one.element_size() for one in tensors)
        if name == "attention":
            self.flops += 4 * out.numel() * args[1].shape[2]
        elif name == "attend_across_frames":
            self.flops += 4 * out.numel() * args[3]
        elif name in ("linear_gelu", "eight_bit_linear", "_int_mm"):
            self.flops += 2 * out.numel() * args[0].shape[-1]
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return out

    def by_operator(self) -> list[tuple[str, int, float, str]]:
        """Return name, launches, 10^9 bytes and what it is counted as, most bytes first."""
        kinds = dict.fromkeys(GEMMS, "product") | dict.fromkeys(ATTENTIONS, "attention")
        return [
            (name, self.launches[name], size / 1e9, kinds.get(name, "other"))
            for name, size in self.bytes.most_common()
        ]

    def counts(self) -> Counts:
        """Return the figures so far."""
        gemm_bytes = sum(self.bytes[name] for name in GEMMS)
        attention_bytes = sum(self.bytes[name] for name in ATTENTIONS)
        return Counts(
            launches=self.launches.total(),
            gemms=sum(self.launches[name] for name in GEMMS),
            attentions=sum(self.launches[name] for name in ATTENTIONS),
            other_gb=(self.bytes.total() - gemm_bytes - attention_bytes) / 1e9,
            gemm_gb=gemm_bytes / 1e9,
            tflop=self.flops / 1e12,
        )


def is_view(func: Any) -> bool:
    """Return whether all results share memory with an argument that is left as it is."""
    aliases = [one.alias_info for one in func._schema.returns]
    return bool(aliases) and all(one is not None and not one.is_write for one in aliases)


@torch.no_grad()
def count(call: Callable[[], Any]) -> OpCounter:
    """Trace a call on meta tensors."""
    counter = OpCounter()
    with AttentionAsOneOp(), counter:
        call()
    return counter


def import_core(name: str) -> Any:
    """Import a module of latte_core by file location; the repository root stays off sys.path."""
    if "latte_core" not in sys.modules:
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
    return importlib.import_module(f"latte_core.{name}")


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
    from op_count_class import class_ways  # which needs this module

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
