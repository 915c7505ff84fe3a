"""What depends on how much memory there is: calls in smaller parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....latte_core.model.layers import set_feed_forward_rows

GB = 1e9
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


def make_room(patcher: Any, num_bytes: int, shape: Sequence[int], keeper: str) -> None:
    """Have ComfyUI put other models away for what a run is going to keep.

    It reckons with the weights of a model and with single calls alone.

    Args:
        patcher: of the model that is to run.
        num_bytes: that the run will keep.
        shape: of its latents.
        keeper: what keeps it, in words.
    """
    import comfy.model_management as management

    device = patcher.load_device
    if management.is_device_cpu(device):
        return
    loaded = management.current_loaded_models
    # the model of a chain of nodes is a clone of what is loaded: the weights are the same
    own = [one for one in loaded if one.model is not None and patcher.is_clone(one.model)]
    needed = patcher.model_size() - patcher.loaded_size() + num_bytes
    needed += patcher.model.memory_required(list(shape))
    management.free_memory(needed, device, keep_loaded=own)
    free = management.get_free_memory(device)
    if free < needed:
        logger.warning(
            "Latte: %s keeps %.1f GB of results, and %.1f GB are free where %.1f GB are needed. "
            "Choose another policy in Latte Accelerate if memory runs out.",
            keeper,
            num_bytes / GB,
            free / GB,
            needed / GB,
        )
