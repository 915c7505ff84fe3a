"""Look for NaN and Inf in weights (R09)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 2**22  # elements looked at together; bounds the memory for types that must be widened


def is_finite(tensor: Tensor) -> bool:
    """Return whether every number in `tensor` is finite, without copying the whole tensor."""
    if tensor.is_complex():
        return is_finite(torch.view_as_real(tensor))
    if not tensor.is_floating_point():
        return True
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        chunk = flat[start : start + CHUNK]
        wide = chunk.to(torch.float32) if chunk.element_size() < 2 else chunk
        if math.isfinite(wide.sum().item()):  # Inf and NaN never leave a sum
            continue
        # A sum can overflow by itself. The extremes show Inf and carry NaN along; asking each
        # number takes 25 times as long.
        lowest, highest = wide.aminmax()
        if not (math.isfinite(lowest.item()) and math.isfinite(highest.item())):
            return False
    return True
