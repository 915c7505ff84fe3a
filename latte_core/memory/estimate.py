"""How much memory a plan needs on the device, and which plan fits what is free.

The constants are what `benchmarks/memory.py` found by tracing full-size calls; a tenth of what is
free is left to what kernels and allocators add. They rank plans and choose one, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..devices import is_cuda
from ..vae.pieces import CONTEXT, PIECE, WHOLE_CLIP
from .plan import AUTO, CPU, PRESETS, RESIDENT, STREAMED, MemoryPlan, Place

# Tensors as large as all tokens that are alive at once in a pass, beside the inner layer.
TOKENS_ALIVE = 8
INNER = 8  # times a token's width: the feed-forward layer before and after GELU
DECODED_BYTES = 2048  # of one pixel of one frame in a 16-bit temporal decoder
TEXT_WORK = 2**28  # of a text encoder beside its weights
SPARE = 0.9  # of what is free may be planned with
GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSizes:
    """Sizes of a model and of the videos it was made for.

    Args:
        text, transformer, vae: bytes of weights in the dtype they run in.
        text_blocks, transformer_blocks: groups of blocks that can be streamed one by one.
        text_rest: bytes of the text encoder that are not in blocks.
        tokens: of a guided pair of videos.
        width: of a token.
        itemsize: bytes of a number.
        num_frames: of a video.
        height, frame_width: of a frame, in pixels.
        kept: bytes that the cache of a run keeps, besides.
    """

    text: int
    transformer: int
    vae: int
    text_blocks: int
    transformer_blocks: int
    text_rest: int
    tokens: int
    width: int
    itemsize: int
    num_frames: int
    height: int
    frame_width: int
    kept: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A plan, and why it was taken."""

    plan: MemoryPlan
    reason: str

    def sentence(self) -> str:
        """Say both in one line."""
        return f"Memory preset {self.plan.name} ({self.reason}): {self.plan.describe()}."


def weights_on_device(place: Place, num_bytes: int, blocks: int, rest: int = 0) -> int:
    """Return the bytes of a part's weights that are on the device while it works."""
    if place == CPU:
        return 0
    if place == STREAMED and blocks > 2:
        return rest + 2 * (num_bytes - rest) // blocks
    return num_bytes


def stage_bytes(plan: MemoryPlan, sizes: PartSizes) -> dict[str, int]:
    """Return the bytes that encoding, sampling and decoding need on the device under a plan."""
    text = weights_on_device(plan.text, sizes.text, sizes.text_blocks, sizes.text_rest)
    model = weights_on_device(plan.transformer, sizes.transformer, sizes.transformer_blocks)
    row = sizes.width * sizes.itemsize
    at_once = min(plan.feed_forward_rows or sizes.tokens, sizes.tokens)
    works = {
        "text": text + (0 if plan.text == CPU else TEXT_WORK),
        "sampling": model + row * (TOKENS_ALIVE * sizes.tokens + INNER * at_once) + sizes.kept,
        "decoding": sizes.vae + _decoding_bytes(plan, sizes),
    }
    places = {"text": plan.text, "sampling": plan.transformer, "decoding": plan.vae}
    weights = {"text": sizes.text, "sampling": sizes.transformer, "decoding": sizes.vae}
    return {
        stage: work
        + sum(weights[other] for other in works if other != stage and places[other] == RESIDENT)
        for stage, work in works.items()
    }


def _decoding_bytes(plan: MemoryPlan, sizes: PartSizes) -> int:
    """Return what the temporal decoder, the larger one, works in: all frames of a piece's tile."""
    edge = plan.decode_tile or max(sizes.height, sizes.frame_width)
    area = min(edge, sizes.height) * min(edge, sizes.frame_width)
    is_whole = sizes.num_frames <= WHOLE_CLIP
    frames = sizes.num_frames if is_whole else min(sizes.num_frames, PIECE + 2 * CONTEXT)
    return DECODED_BYTES * area * frames * sizes.itemsize // 2


def choose_plan(
    memory: str | MemoryPlan,
    device: torch.device,
    sizes: Callable[[], PartSizes],
    free: Callable[[torch.device], int | None] | None = None,
) -> Choice:
    """Return the plan that was asked for, or for `auto` the roomiest that fits.

    Args:
        memory: what `check_memory` returned.
        device: where the model runs.
        sizes: of the model; asked for only if it matters.
        free: bytes free on a device, None where it has no memory of its own.
    """
    if isinstance(memory, MemoryPlan):
        return Choice(plan=memory, reason="as given")
    if memory != AUTO:
        return Choice(plan=PRESETS[memory], reason="as asked for")
    room = (free or free_bytes)(device)
    if room is None:
        reason = f"{device.type} has no memory of its own"
        return Choice(plan=next(iter(PRESETS.values())), reason=reason)
    known = sizes()
    plan, needed = next(iter(PRESETS.values())), 0
    for plan in PRESETS.values():
        needed = max(stage_bytes(plan, known).values())
        if needed <= SPARE * room:
            break
    reason = f"{room / GB:.1f} GB are free, about {needed / GB:.1f} GB are needed"
    return Choice(plan=plan, reason=reason)


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes free on an accelerator with memory of its own, else None."""
    if not is_cuda(device):
        return None
    return int(torch.cuda.mem_get_info(device)[0])


def all_bytes(device: torch.device) -> int | None:
    """Return the bytes of a device that this process has or could have; None as `free_bytes`."""
    free = free_bytes(device)
    return None if free is None else free + int(torch.cuda.memory_reserved(device))
