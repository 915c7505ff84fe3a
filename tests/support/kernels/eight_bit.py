"""Eight-bit kernels beside torch's operators, measured in a process of its own.

    [TRITON_INTERPRET=1] python tests/support/kernels/eight_bit.py DEVICE

The process prints JSON; see `operators.py` for why it is a process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[3]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTH = 144
WAYS = (("fp8", "triton", False), ("int8", "triton", True), ("int8", "int_mm", False))
"""Format, product, and whether queries, keys and values were fused before."""


def random(*size: int, seed: int = 0) -> Tensor:
    """Return normal values."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def tokens(width: int) -> Tensor:
    """Return tokens (2, 35, K) of many sizes: one all zero, one full of ties, one broken."""
    made = random(70, width) * torch.logspace(-30, 4, 70)[:, None]
    made[3] = 0
    made[5] = torch.arange(width).sub(width // 2).div(2)
    made[5, 0] = 127
    made[6, 1] = float("nan")
    made[7, 1] = float("inf")
    return made.view(2, 35, width)


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Return whether rows with scales are the same to the bit; a broken row is in its scale."""
    values, scales = (one.cpu() for one in found)
    others, other_scales = (one.cpu() for one in expected)
    sound = other_scales.flatten().isfinite()
    return torch.equal(scales.nan_to_num(-1), other_scales.nan_to_num(-1)) and torch.equal(
        values[sound].view(torch.uint8), others[sound].view(torch.uint8)
    )


def row_cases(device: str) -> dict[str, bool]:
    """Say of rows from each source whether they are those of torch's path."""
    from latte_core.kernels import eight_bit, ops
    from latte_core.precision.formats import FORMATS, quantise_tokens

    found: dict[str, bool] = {}
    for kind in FORMATS.values():
        for dtype in DTYPES:
            for width in (16, WIDTH):
                given = tokens(width).to(dtype)
                made = eight_bit.TOKEN_ROWS(given.to(device), None, None, None, False, kind.dtype)
                name = f"{kind.name} {dtype} {width}"
                # as a CPU divides: by a number a GPU multiplies by its inverse
                found[name] = same(made, quantise_tokens(given.flatten(0, 1), kind))
        hidden, update = (random(2, 33, WIDTH, seed=seed).to(device) for seed in (1, 2))
        rows = [row.to(device) for row in random(2, 3, WIDTH, seed=3).chunk(3, dim=1)]
        shift, factor, gate = rows
        normed = ops.MODULATED_NORM(hidden, shift, factor, 1e-6)
        made = eight_bit.NORM_ROWS(hidden, shift, factor, 1e-6, kind.dtype)
        found[f"{kind.name} norm"] = same(made, quantise_tokens(normed.cpu().flatten(0, 1), kind))
        total, normed = ops.GATED_SUM_NORM(hidden, update, gate, shift, factor, 1e-6)
        none = (None, None, None)
        own, *made = eight_bit.GATED_SUM_NORM_ROWS(
            hidden, update, *none, gate, shift, factor, 1e-6, kind.dtype
        )
        expected = quantise_tokens(normed.cpu().flatten(0, 1), kind)
        found[f"{kind.name} sum and norm"] = torch.equal(own, total) and same(
            (made[0], made[1]), expected
        )
    return found


def product_cases(device: str) -> dict[str, float]:
    """Return how far results are from torch's path, over the largest value."""
    from latte_core.kernels import eight_bit
    from latte_core.precision.formats import FORMATS, quantise_rows, quantise_tokens

    found: dict[str, float] = {}
    for kind in FORMATS.values():
        for dtype, tiles in ((torch.float32, range(len(eight_bit.TILES))), (torch.float16, [0])):
            for rows, columns, width in ((67, 144, WIDTH), (32, 48, 128)):
                given, weight = random(rows, width), random(columns, width, seed=1)
                values, scales = quantise_tokens(given, kind)
                stored, factors = quantise_rows(weight, kind)
                bias = random(columns, seed=2).to(dtype)
                exact = (values.double() * scales) @ (stored.double() * factors).t() + bias
                moved = [one.to(device) for one in (values, scales, stored, factors, bias)]
                for tile in tiles:
                    made = eight_bit.EIGHT_BIT_LINEAR(*moved, dtype, tile)
                    name = f"{kind.name} {rows}x{columns}x{width} {dtype} {tile}"
                    found[name] = far(made, exact)
    return found | sum_cases(device)


def sum_cases(device: str) -> dict[str, float]:
    """Do so for what reads the sums of `torch._int_mm`."""
    from latte_core.kernels import eight_bit

    total = torch.randint(-9000, 9000, (66, WIDTH), generator=torch.Generator().manual_seed(4))
    factors = (random(66, 1).abs(), random(WIDTH, 1, seed=1).abs(), random(WIDTH, seed=2))
    exact = total.double() * factors[0] * factors[1].t() + factors[2]
    hidden, gate = random(2, 33, WIDTH, seed=5), random(2, 1, WIDTH, seed=6)
    row = torch.ones(1, 1, WIDTH)
    given = [one.to(device) for one in (total.int(), *factors)]
    whole = hidden.double() + gate * exact.view(2, 33, WIDTH)
    values, scales = eight_bit.TOKEN_ROWS(*given, True, torch.int8)
    gelu = functional.gelu(exact, approximate="tanh")
    own, rows, row_scales = eight_bit.GATED_SUM_NORM_ROWS(
        hidden.to(device), *given, gate.to(device), 0 * row.to(device), row.to(device), 1e-6,
        torch.int8,
    )  # fmt: skip
    normed = functional.layer_norm(whole, (WIDTH,), eps=1e-6).flatten(0, 1)
    half = torch.finfo(torch.float32).eps + 0.5  # of a step
    return {
        "sums": far(eight_bit.SCALED_SUMS(*given, torch.float32), exact),
        "sums in bfloat16 / 8": far(eight_bit.SCALED_SUMS(*given, torch.bfloat16), exact) / 8,
        "sum of sums": far(
            eight_bit.GATED_SUM_OF_SUMS(hidden.to(device), *given, gate.to(device)), whole
        ),
        "sum of sums before a norm": far(own, whole),
        # half a step of each row is what rounding may take
        "rows of GELU, beyond rounding": beyond(values, scales, gelu, half),
        "rows of a norm, beyond rounding": beyond(rows, row_scales, normed, half),
    }


def far(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference over the largest value."""
    error = (found.cpu().double().view(exact.shape) - exact).abs().max()
    return float(error / exact.abs().max())


def beyond(values: Tensor, scales: Tensor, exact: Tensor, steps: float) -> float:
    """Return by how much rows are off beyond some steps, over the largest value."""
    values, scales = values.cpu().double(), scales.cpu().double()
    error = ((values * scales - exact).abs() - steps * scales).clamp(min=0).max()
    return float(error / exact.abs().max())


def model_cases(device: str) -> dict[str, dict[str, Any]]:
    """Compare whole models by kernels with torch's path, and count what they call."""
    from latte_test_support.kernels.operators import OperatorNames, tiny_latte

    from latte_core.kernels.choice import KernelSet, KernelUse
    from latte_core.model.weights.fused_qkv import fuse_qkv
    from latte_core.precision.matmul import EMULATION, Backend
    from latte_core.precision.quantize import quantize

    half, text = random(1, 4, 5, 4, 6), random(2, 5, 24, seed=1)
    latents = torch.cat([half, half]).to(device)

    def run(name: str, backend: Any, use: KernelUse, is_fused: bool) -> Tensor:
        model = tiny_latte(False)
        if is_fused:
            fuse_qkv(model)
        quantize(model, name, backend=backend)
        model.to(device).kernels = KernelSet(use)
        time = torch.tensor([500.0]).to(device)
        with torch.no_grad():
            return model(latents, time, text.to(device), shared_input=True)

    found: dict[str, dict[str, Any]] = {}
    for name, product, is_fused in WAYS:
        expected = run(name, EMULATION, KernelUse.NEVER, is_fused)
        with OperatorNames() as counter:
            backend = Backend(name=product, with_kernels=True)
            made = run(name, backend, KernelUse.ALWAYS, is_fused)
        error = (made - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        found[f"{name} {product}"] = {"relative": float(error), "calls": dict(counter.calls)}
    return found


def compiled_cases(device: str) -> dict[str, float]:
    """Measure each operator within a graph, and torch's own checks of its description."""
    from latte_core.kernels import eight_bit

    hidden, row = random(2, 7, 16).to(device), random(1, 1, 16, seed=1).to(device)
    total = torch.ones(14, 16, dtype=torch.int32, device=device)
    factors = random(14, 1).to(device), random(16, 1).to(device), random(16).to(device)
    none = (None, None, None)
    norm = (row, row, 1e-6, torch.int8)
    values = total.to(torch.int8)
    calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "token_rows": (eight_bit.TOKEN_ROWS, (hidden, *none, False, torch.int8)),
        "scaled_sums": (eight_bit.SCALED_SUMS, (total, *factors, torch.float32)),
        "norm_rows": (eight_bit.NORM_ROWS, (hidden, *norm)),
        "gated_sum_norm_rows": (
            eight_bit.GATED_SUM_NORM_ROWS, (hidden, hidden, *none, None, *norm),
        ),
        "gated_sum_of_sums": (eight_bit.GATED_SUM_OF_SUMS, (hidden, total, *factors, row)),
        "eight_bit_linear": (
            eight_bit.EIGHT_BIT_LINEAR,
            (values, factors[0], values, factors[0], None, torch.float32, 0),
        ),
    }  # fmt: skip
    found: dict[str, float] = {}
    for name, (operator, given) in calls.items():
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, given, test_utils=checks)
        graph: Any = torch.compile(operator, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            pairs = zip(leaves(graph(*given)), leaves(operator(*given)), strict=True)
            found[name] = max(float((one - other).abs().max()) for one, other in pairs)
    return found


def leaves(result: Any) -> list[Tensor]:
    """Return the tensors of a result in float32."""
    return [one.float() for one in ((result,) if isinstance(result, Tensor) else result)]


def main(device: str) -> None:
    """Measure everything and print it."""
    report: dict[str, Any] = {"rows": row_cases(device), "products": product_cases(device)}
    report |= {"models": model_cases(device), "compiled": compiled_cases(device)}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import support

    sys.modules["latte_test_support"] = support
    main(sys.argv[1])
