"""Calls whose feed-forward layers work on some tokens at a time, where memory is short."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....latte_core.model.layers import set_feed_forward_rows

FEED_FORWARD_ROWS = 4096  # tokens at a time, as in latte_core's presets for small cards

logger = logging.getLogger("latte")


@contextmanager
def fitting_feed_forward(model: Any, latents: Tensor) -> Iterator[None]:
    """Have the feed-forward layers work on some tokens at a time while one call needs that.

    ComfyUI computes the halves of guidance one after the other before it comes to this; what is
    left to spare is the inner width of these layers, a third of a call's memory. Results are the
    same but for rounding.

    Args:
        model: a Latte among ComfyUI's `BaseModel`s.
        latents: of the call, with all that is stacked in its batch.
    """
    free, needed = free_memory(model, latents.device), model.memory_required(latents.shape)
    if free >= needed:
        yield
        return
    logger.debug(
        "Latte: %.0f of %.0f MiB are free: feed-forward in parts.", free / 2**20, needed / 2**20
    )
    set_feed_forward_rows(model.diffusion_model, FEED_FORWARD_ROWS)
    try:
        yield
    finally:
        set_feed_forward_rows(model.diffusion_model, None)


def free_memory(model: Any, device: torch.device) -> float:
    """Return the bytes that ComfyUI could give a call, as it reckons them itself."""
    import comfy.model_management

    # With dynamic memory, weights that can be let go count as free; only the patcher knows them.
    ask = getattr(model.current_patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return float(ask(device))
