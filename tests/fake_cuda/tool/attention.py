"""Which of torch's attention kernels a card takes, and what computes the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda

ATEN = torch.ops.aten
WIDEST = 256  # heads that the flash kernel takes
HALVES = (torch.float16, torch.bfloat16)
SEED = (0, 0)


def attend(
    capability: tuple[int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Call the operator that torch calls on a card of this capability."""
    if enable_gqa:
        raise NotImplementedError("The fake card knows no attention with groups of queries.")
    way = backend(capability, query, value, attn_mask)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        filled = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = filled.masked_fill_(attn_mask.logical_not(), float("-inf"))
    if way == "flash":
        return ATEN._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if way == "efficient":
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        needs_sums = any(one.requires_grad for one in (query, key, value))
        needs_sums = needs_sums and torch.is_grad_enabled()
        return ATEN._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, needs_sums, dropout_p, is_causal, scale=scale
        )[0]
    return ATEN._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale
    )[0]


def backend(
    capability: tuple[int, int], query: Tensor, value: Tensor, attn_mask: Tensor | None
) -> str:
    """Return `flash`, `efficient` or `math`, as torch chooses among those that are enabled."""
    is_new = capability >= (8, 0)
    widest = max(query.shape[-1], value.shape[-1])
    fits_flash = is_new and query.dtype in HALVES and attn_mask is None and widest <= WIDEST
    if fits_flash and cuda.flash_sdp_enabled():
        return "flash"
    fits_efficient = query.dtype in (torch.float32, torch.float16) or (
        is_new and query.dtype == torch.bfloat16
    )
    if fits_efficient and cuda.mem_efficient_sdp_enabled():
        return "efficient"
    if not cuda.math_sdp_enabled():
        raise RuntimeError("No available kernel. Aborting execution.")
    return "math"


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Compute `_scaled_dot_product_flash_attention` on the CPU."""
    out, sums = ATEN._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=None, scale=scale
    )
    rows, columns = query.shape[2], key.shape[2]
    seeds = (query.new_zeros(2, dtype=torch.uint64), query.new_zeros((), dtype=torch.uint64))
    return out, sums, None, None, rows, columns, *seeds, query.new_zeros(0)


def flash_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    _starts: Any,
    _key_starts: Any,
    _rows: int,
    _columns: int,
    dropout_p: float,
    is_causal: bool,
    *_: Any,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """Compute the gradients of `flash` on the CPU."""
    return ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, out, sums, dropout_p, is_causal, attn_mask=None, scale=scale
    )


def efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Compute `_scaled_dot_product_efficient_attention` on the CPU."""
    out, sums = ATEN._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=bias, scale=scale
    )
    seeds = (query.new_zeros((), dtype=torch.int64) for _ in SEED)
    return out, sums, *seeds


def efficient_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    out: Tensor,
    sums: Tensor,
    _seed: Any,
    _offset: Any,
    dropout_p: float,
    _mask: Any,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Compute the gradients of `efficient` on the CPU, less that of the bias."""
    made = ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, query, key, value, out, sums, dropout_p, is_causal, attn_mask=bias, scale=scale
    )
    return *made, None


ON_CPU: dict[Any, Callable[..., Any]] = {
    ATEN._scaled_dot_product_flash_attention.default: flash,
    ATEN._scaled_dot_product_flash_attention_backward.default: flash_backward,
    ATEN._scaled_dot_product_efficient_attention.default: efficient,
    ATEN._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
}
"""Operators that exist on cards alone, and what stands for them."""
