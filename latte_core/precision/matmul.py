"""Products of eight-bit matrices, in hardware where there is some, else by emulation.

Both operands carry scales by row, so the product of the numbers is scaled after the sum:
out[m, n] = scale_m * scale_n * sum_k tokens[m, k] * weight[n, k].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import FP8, Format, quantise_tokens

FP8_CAPABILITY = (8, 9)  # NVIDIA Ada, Hopper and later
INT8_CAPABILITY = (7, 5)  # NVIDIA Turing and later
FEWEST_ROWS = 32  # cuBLAS takes more than 16 rows of int8 only
NOT_NVIDIA = ("cpu", "mps", "xpu", "meta")


def has_product(kind: Format, device: torch.device) -> bool:
    """Return whether torch multiplies numbers of this kind on a device without unpacking them."""
    if kind is not FP8 and device.type == "cpu":
        return True
    if device.type in NOT_NVIDIA or torch.version.hip or not torch.cuda.is_available():
        return False
    needed = FP8_CAPABILITY if kind is FP8 else INT8_CAPABILITY
    return torch.cuda.get_device_capability(device) >= needed


def multiply(tokens: Tensor, values: Tensor, scales: Tensor, kind: Format) -> Tensor:
    """Multiply tokens (M, K), quantised here, by a quantised weight.

    Args:
        tokens: activations of any floating type.
        values: (N, K) numbers of the weight.
        scales: (N, 1) float32.
        kind: of the weight's numbers; the tokens become the same.

    Returns:
        (M, N): bfloat16 from fp8 hardware, which sums in float32, else float32.
    """
    rows, row_scales = quantise_tokens(tokens, kind)
    if kind is FP8:
        if has_product(kind, tokens.device):
            return scaled_product(rows, values, row_scales, scales)
        total = rows.float() @ values.float().t()
    elif has_product(kind, tokens.device):
        total = whole_product(rows, values).float()
    else:
        total = rows.float() @ values.float().t()
    return total * row_scales * scales.t()


def scaled_product(rows: Tensor, values: Tensor, row_scales: Tensor, scales: Tensor) -> Tensor:
    """Multiply fp8 matrices (M, K) and (N, K) in hardware, scaled by row: (M, N) bfloat16.

    bfloat16 is the only result that every generation gives for scales by row.
    """
    product: Any = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    return product(
        rows, values.t(), scale_a=row_scales, scale_b=scales.t(), out_dtype=torch.bfloat16
    )


def whole_product(rows: Tensor, values: Tensor) -> Tensor:
    """Multiply int8 matrices (M, K) and (N, K) exactly: (M, N) int32."""
    product: Any = torch._int_mm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    count = rows.shape[0]
    if rows.device.type != "cpu" and count < FEWEST_ROWS:
        rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - count))
    return product(rows, values.t())[:count]
