"""Prompts that a CLIP has encoded, kept with it, so that its T5 need not run or be loaded again.

The empty negative prompt above all: whoever edits the positive one has it encoded once.
"""

from __future__ import annotations

from typing import Any

from ....latte_core.text.cache import CachedEncoder, EmbeddingCache
from ....latte_core.text.pair import Encoder

MEMORY = "latte_text_memory"  # attribute of the encoder's module, which all clones of a CLIP share
COMPUTE_DTYPE = "manual_cast_dtype"  # the object that ComfyUI itself patches into every CLIP
MEMORY_BYTES = 2**26  # about 30 prompts of T5-XXL, which ComfyUI computes in float32


def with_memory(clip: Any, encoder: Any) -> Encoder:
    """Return an encoder that asks the given one only for prompts that are new to the CLIP.

    Each prompt is encoded alone, so that its features do not depend on which others were known.
    They come as copies on the CPU.

    Args:
        clip: a CLIP.
        encoder: encodes prepared prompts with it.
    """
    patcher = clip.patcher
    if not is_known(patcher):
        return encoder
    identity = {
        "weights": str(patcher.patches_uuid),  # another one behind every LoRA
        "device": str(patcher.load_device),
        "dtype": str(patcher.object_patches.get(COMPUTE_DTYPE)),
    }
    return CachedEncoder(memory_of(clip.cond_stage_model), identity, lambda: encoder)


def is_known(patcher: Any) -> bool:
    """Whether patches that have an identity are all that changes the encoder."""
    others = (
        set(patcher.object_patches) - {COMPUTE_DTYPE},
        patcher.injections,
        patcher.weight_wrapper_patches,
    )
    return patcher.forced_hooks is None and not any(others)


def memory_of(module: Any) -> EmbeddingCache:
    """Return what a text encoder remembers.

    It is no attachment of the patcher: clones with other attachments have their weights loaded
    again.
    """
    found = getattr(module, MEMORY, None)
    if not isinstance(found, EmbeddingCache):
        found = EmbeddingCache(max_bytes=MEMORY_BYTES)
        setattr(module, MEMORY, found)
    return found
