"""Room for what a run keeps beside its model, which ComfyUI does not reckon with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

GB = 1e9

logger = logging.getLogger("latte")


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
