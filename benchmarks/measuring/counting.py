"""Count what a call launches, moves and multiplies, by tracing it on meta tensors.

The rule: views are free and every other operator is one launch. An operator moves its inputs plus
its outputs, each tensor once per mention. Attention is one operator, whose bytes are left out.
Those of matrix products (and of the patch convolution) are counted apart, because there arithmetic
sets the time. A multiply-add is two operations; attention counts its two products. A fused kernel
of ours is one operator too: a linear layer with its GELU is a matrix product, and attention across
frames is attention. Of layers in eight bits the product is a matrix product, whatever its kernel
scales, adds and casts before it writes; quantising tokens is not, nor is scaling the 32-bit sums of
torch._int_mm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

GEMMS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "linear_gelu"),
    *("eight_bit_linear", "_scaled_mm", "_int_mm"),
)
ATTENTIONS = ("attention", "attend_across_frames")
FREE = ("_unsafe_view",)  # a view whose schema does not say so


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
