"""Products of eight-bit matrices, in hardware where there is some.

Both operands carry scales by row, so the product of the numbers is scaled after the sum:
out[m, n] = scale_m * scale_n * sum_k tokens[m, k] * weight[n, k].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import is_out_of_memory
from ..kernels.choice import MAX_WIDTH
from ..kernels.eight_bit import EIGHT_BIT_LINEAR, TOKEN_ROWS, scaled
from ..kernels.rows import Rows, Sums
from .formats import FP8, Format, quantise_tokens
from .names import EMULATED, INT_MM, SCALED_MM, TRITON, UNPACKED
from .processor import has_int8_product

FP8_CAPABILITY = (8, 9)  # NVIDIA Ada, Hopper and later
INT8_CAPABILITY = (7, 5)  # NVIDIA Turing and later
FEWEST_ROWS = 32  # cuBLAS takes more than 16 rows of int8 only
NOT_NVIDIA = ("cpu", "mps", "xpu", "meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """How the products of a layer are made.

    Args:
        name: see `names`.
        tile: of our own kernel, a place in its `TILES`.
        with_kernels: rows are quantised and sums scaled by our kernels.
        place: type of the device that it was found for, where it is used; None is any.
    """

    name: str
    tile: int = 0
    with_kernels: bool = False
    place: str | None = None

    def serves(self, device: torch.device) -> bool:
        """Whether tokens of a device can be multiplied so."""
        return self.place is None or self.place == device.type


EMULATION = Backend(name=EMULATED)
UNPACKING = Backend(name=UNPACKED)


def has_product(kind: Format, device: torch.device) -> bool:
    """Return whether torch multiplies numbers of this kind on a device, and no slower than others.

    A small product is made to find out.
    """
    if device.type == "cpu":
        return kind is not FP8 and has_int8_product(whole_product)
    return is_capable(kind, device) and is_able(kind, device)


def is_capable(kind: Format, device: torch.device) -> bool:
    """Return whether a device is an NVIDIA card of a generation with such products."""
    if device.type in NOT_NVIDIA or torch.version.hip or not torch.cuda.is_available():
        return False
    needed = FP8_CAPABILITY if kind is FP8 else INT8_CAPABILITY
    return torch.cuda.get_device_capability(device) >= needed


def is_able(kind: Format, device: torch.device) -> bool:
    """Return whether a card makes one small product right, with scales by row.

    Builds of torch leave out what cards of a generation could do (fp8 with scales by row on Windows
    and on some of capability 8.9).
    """
    numbers = torch.ones(FEWEST_ROWS, FEWEST_ROWS, device=device).to(kind.dtype)
    ones = torch.ones(FEWEST_ROWS, 1, device=device)
    try:
        if kind is FP8:
            made = scaled_product(numbers, numbers, ones, ones)
        else:
            made = whole_product(numbers, numbers)
    except (RuntimeError, ValueError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return bool((made == FEWEST_ROWS).all())


def rows_of(tokens: Tensor, kind: Format, backend: Backend) -> Rows:
    """Quantise tokens (..., K) with a scale for each."""
    flat = tokens.flatten(0, -2) if tokens.dim() > 2 else tokens  # M K
    is_fit = 0 < flat.numel() and flat.shape[1] <= MAX_WIDTH
    # a compiler makes one pass of torch's operators, and joins it with what stands before
    if backend.with_kernels and is_fit and not torch.compiler.is_compiling():
        values, scales = TOKEN_ROWS(flat.contiguous(), None, None, None, False, kind.dtype)
    else:
        values, scales = quantise_tokens(flat, kind)
    return Rows(values, scales, tokens.shape, tokens.dtype)


def multiply(
    rows: Rows, values: Tensor, scales: Tensor, bias: Tensor | None, backend: Backend
) -> Tensor:
    """Multiply quantised tokens by a quantised weight, and add a bias.

    Args:
        rows: of M tokens.
        values: (N, K) numbers of the weight.
        scales: (N, 1) float32.
        bias: (N,), or None.
        backend: one that multiplies eight bits.

    Returns:
        (M, N) in the type of the tokens.
    """
    if backend.name == TRITON:
        given = rows.values, rows.scales, values, scales, bias
        return EIGHT_BIT_LINEAR(*given, rows.dtype, backend.tile)
    if backend.name == SCALED_MM:
        return scaled_product(rows.values, values, rows.scales, scales, bias).to(rows.dtype)
    if backend.name == INT_MM and backend.with_kernels:
        return scaled(sums(rows, values, scales, bias)).flatten(0, -2)
    if backend.name == INT_MM:
        total = whole_product(rows.values, values).float()
    else:
        total = rows.values.float() @ values.float().t()
    out = (total * rows.scales * scales.t()).to(rows.dtype)
    return out if bias is None else out + bias.to(out.dtype)


def sums(rows: Rows, values: Tensor, scales: Tensor, bias: Tensor | None) -> Sums:
    """Return the product of int8 numbers for a kernel that scales it."""
    total = whole_product(rows.values, values)
    shape = torch.Size((*rows.shape[:-1], len(values)))
    return Sums(total, rows.scales, scales, bias, shape, rows.dtype)


def scaled_product(
    rows: Tensor, values: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Multiply fp8 matrices (M, K) and (N, K) in hardware, scaled by row: (M, N) bfloat16.

    bfloat16 is the only result that every generation gives for scales by row.
    """
    product: Any = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    return product(
        rows,
        values.t(),
        scale_a=row_scales,
        scale_b=scales.t(),
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
    )


def whole_product(rows: Tensor, values: Tensor) -> Tensor:
    """Multiply int8 matrices (M, K) and (N, K) exactly: (M, N) int32."""
    product: Any = torch._int_mm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    count = rows.shape[0]
    if rows.device.type != "cpu" and count < FEWEST_ROWS:
        rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - count))
    return product(rows, values.t())[:count]
