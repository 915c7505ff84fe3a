"""Fused kernels beside torch's operators, measured in a process of its own.

    [TRITON_INTERPRET=1] python tests/support/kernels/operators.py DEVICE

Triton asks for its interpreter once, when it is imported, and other tests may import it first. The
process prints JSON: for each case and type the errors of both ways against float64.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ROOT = Path(__file__).resolve().parents[3]
HEAD = 72  # of Latte's heads: no power of two
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Ways = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]
"""The kernel, torch's operators, and arguments in float64 for both."""


def random(*size: int, seed: int = 0) -> Tensor:
    """Return normal values in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def rows_of(videos: int, width: int) -> tuple[Tensor, ...]:
    """Return three rows of modulation, views of six as in a block."""
    return random(videos, 6, width, seed=9).chunk(6, dim=1)[:3]


def sum_cases() -> dict[str, Ways]:
    """Norms and sums, for one row of modulation and for one per video, rows beyond a tile."""
    from latte_core.kernels import ops
    from latte_core.model.layers import modulated_norm
    from latte_core.model.residual import gated_sum, gated_sum_norm

    found: dict[str, Ways] = {}
    for videos, count, width in ((1, 37, 2 * HEAD), (3, 5, 16 * HEAD), (2, 33, 16)):
        hidden, update = random(videos, count, width), random(videos, count, width, seed=1)
        for given in {1, videos}:
            shift, factor, gate = rows_of(given, width)
            name = f"{videos}x{count}x{width}, {given} rows"
            norm, plain_sum = (ops.MODULATED_NORM, modulated_norm), (ops.GATED_SUM, gated_sum)
            both = ops.GATED_SUM_NORM, gated_sum_norm
            found[f"norm {name}"] = *norm, (hidden, shift, factor, 1e-6)
            found[f"sum {name}"] = *plain_sum, (hidden, update, gate)
            found[f"sum and norm {name}"] = *both, (hidden, update, gate, shift, factor, 1e-6)
        found[f"plain sum {videos}"] = ops.GATED_SUM, gated_sum, (hidden, update, None)
        found[f"plain sum and norm {videos}"] = (
            *(ops.GATED_SUM_NORM, gated_sum_norm),
            (hidden, update, None, *rows_of(1, width)[:2], 1e-6),
        )
    return found


def linear_cases() -> dict[str, Ways]:
    """Linear layers with GELU: sizes that tiles do not divide, and one they do."""
    from functools import partial

    from latte_core.kernels import ops

    def plain(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.gelu(functional.linear(tokens, weight, bias), approximate="tanh")

    found: dict[str, Ways] = {}
    for tile in range(len(ops.TILES)):
        for rows, columns, width in ((67, 300, 2 * HEAD), (128, 64, 128)):
            given = random(2, rows, width), random(columns, width, seed=1), random(columns, seed=2)
            arguments = given[0], given[1] / width**0.5, given[2]
            name = f"linear {rows}x{columns}x{width}, tile {tile}"
            found[name] = partial(ops.LINEAR_GELU, tile=tile), plain, arguments
    return found


def attention_cases() -> dict[str, Ways]:
    """Attention across frames, on separate and on interleaved queries, keys and values."""
    from latte_core.kernels import ops
    from latte_core.model.attention import attend_across_frames

    found: dict[str, Ways] = {}
    for index, frames in enumerate((1, 5, 16, 17, 32)):
        videos, places, heads = 1 + index % 3, 11, 2
        size = videos, frames * places, heads
        separate = tuple(random(*size, HEAD, seed=seed) for seed in range(3))
        interleaved = random(*size, 3, HEAD).unbind(3)
        ways = ops.ATTEND_ACROSS_FRAMES, attend_across_frames
        found[f"attention {frames} frames, separate"] = *ways, (*separate, frames)
        found[f"attention {frames} frames, interleaved"] = *ways, (*interleaved, frames)
    return found


class OperatorNames(TorchDispatchMode):
    """Counts the calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "latte":
            self.calls[func._opname] += 1
        return func(*args, **(kwargs or {}))


def model_cases(device: str) -> dict[str, dict[str, Any]]:
    """Measure whole models, and count the kernels they call."""
    from latte_core.model.attention import BlockHooks

    def call_block(_: int, block: Callable[..., Tensor], *given: Tensor) -> Tensor:
        return block(*given)

    around = BlockHooks(run_block=call_block)
    one, two = torch.tensor([500.0]), torch.tensor([500.0, 500.0])
    return {
        "plain": measure_model(tiny_latte(False), 5, two, device, {}),
        "as sampled": measure_model(tiny_latte(True), 5, one, device, {"shared_input": True}),
        "hook around blocks": measure_model(tiny_latte(False), 3, two, device, {"hooks": around}),
        "single frame": measure_model(tiny_latte(True), 1, two, device, {}),
    }


def measure_model(
    model: Any, frames: int, times: Tensor, device: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the errors of a model with and without kernels, and what it called with them."""
    from latte_core.kernels.choice import KernelSet, KernelUse

    half, text = random(1, 4, frames, 4, 6), random(2, 5, 24, seed=1)
    latents = torch.cat([half, half])

    def run(use: KernelUse, dtype: torch.dtype) -> Tensor:
        model.to(device, dtype).kernels = KernelSet(use)
        given = latents.to(device, dtype), times.to(device), text.to(device, dtype)
        with torch.no_grad():
            return model(*given, **options)

    return both_ways(run)


def both_ways(run: Callable[[Any, torch.dtype], Tensor]) -> dict[str, dict[str, Any]]:
    """Compare a model with kernels with the one without, and both with float64.

    Args:
        run: calls it, given a `KernelUse` and a type.

    Returns:
        For each type how far both ways are apart, the errors of both, and calls of kernels.
    """
    from latte_core.kernels.choice import KernelUse

    report: dict[str, dict[str, Any]] = {}
    exact = run(KernelUse.NEVER, torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        results = [run(KernelUse.NEVER, dtype)]
        with OperatorNames() as counter:
            results.append(run(KernelUse.ALWAYS, dtype))
        errors = [mean_error(one, exact) for one in results]
        report[str(dtype).removeprefix("torch.")] = {
            "relative": relative(*results),
            "torch": errors[0],
            "kernel": errors[1],
            "calls": dict(counter.calls),
        }
    return report


def tiny_latte(is_fused: bool) -> Any:
    """Return a small LatteT2V whose heads are as wide as Latte's, in values bfloat16 can hold."""
    from latte_test_support.tiny.t2v import tiny_model

    from latte_core.model.weights.fused_qkv import fuse_qkv

    model = tiny_model(attention_head_dim=HEAD, cross_attention_dim=2 * HEAD)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter / 2).bfloat16())
    if is_fused:
        fuse_qkv(model)
    return model


def compiled_cases(device: str) -> dict[str, float]:
    """Measure each operator within a graph, and torch's own checks of its description."""
    from latte_core.kernels import ops

    hidden = random(2, 7, 16).to(device, torch.float32)
    shift, factor, gate = (row.to(device, torch.float32) for row in rows_of(1, 16))
    heads = random(2, 6, 2, 8).to(device, torch.float32)
    weight = random(8, 16).to(device, torch.float32)
    calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "modulated_norm": (ops.MODULATED_NORM, (hidden, shift, factor, 1e-6)),
        "gated_sum": (ops.GATED_SUM, (hidden, hidden, gate)),
        "gated_sum_norm": (ops.GATED_SUM_NORM, (hidden, hidden, None, shift, factor, 1e-6)),
        "linear_gelu": (ops.LINEAR_GELU, (hidden, weight, weight[:, 0].contiguous(), 0)),
        "attend_across_frames": (ops.ATTEND_ACROSS_FRAMES, (heads, heads, heads, 3)),
    }
    found: dict[str, float] = {}
    for name, (operator, given) in calls.items():
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, given, test_utils=checks)
        graph: Any = torch.compile(operator, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            found[name] = relative(graph(*given), operator(*given))
    return found


def measure(ways: Ways, dtype: torch.dtype, device: str) -> dict[str, float] | None:
    """Return the distance between both ways, and the error of each against float64.

    None for a kernel that asks for more shared memory than a card has.
    """
    from triton.runtime.errors import OutOfResources

    kernel, plain, given = ways
    arguments = tree_map_only(Tensor, lambda one: one.to(device, dtype), given)
    exact = tree_map_only(Tensor, lambda one: one.double(), arguments)
    with torch.no_grad():
        try:
            results = [kernel(*arguments), plain(*arguments)]
        except OutOfResources:
            return None
        expected = plain(*exact)
    return {
        "relative": relative(*results),
        "kernel": mean_error(results[0], expected),
        "torch": mean_error(results[1], expected),
    }


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a result of one or two."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def relative(found: Any, expected: Any) -> float:
    """Return the largest difference, over the largest value."""
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    return max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
        for one, other in pairs
    )


def mean_error(found: Any, expected: Any) -> float:
    """Return the root of the mean square of the last tensor's error, over that of its values."""
    one, other = tensors_of(found)[-1].double(), tensors_of(expected)[-1]
    return float(((one - other).square().mean() / other.square().mean()).sqrt())


def main(device: str) -> None:
    """Measure everything and print it."""
    cases = {**sum_cases(), **linear_cases(), **attention_cases()}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in DTYPES:
        measured = {name: measure(ways, dtype, device) for name, ways in cases.items()}
        figures[str(dtype).removeprefix("torch.")] = {
            name: errors for name, errors in measured.items() if errors is not None
        }
    report = {"operators": figures, "models": model_cases(device)}
    sys.stdout.write(json.dumps(report | {"compiled": compiled_cases(device)}))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import support

    sys.modules["latte_test_support"] = support
    main(sys.argv[1])
