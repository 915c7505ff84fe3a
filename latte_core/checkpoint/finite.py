"""Look for NaN and Inf in weights (R09)."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**22  # elements looked at together; bounds the extra memory to a few megabytes


def is_finite(tensor: Tensor) -> bool:
    """Return whether every number in `tensor` is finite, without copying the whole tensor."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        chunk = flat[start : start + CHUNK]
        wide = chunk.to(torch.float32) if chunk.element_size() < 2 else chunk
        if not bool(torch.isfinite(wide).all()):
            return False
    return True
