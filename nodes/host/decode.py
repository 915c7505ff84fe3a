"""Decode latents in chunks that do not depend on free memory."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from torch import Tensor

from ...latte_core.devices import is_out_of_memory
from ...latte_core.errors import NonFiniteError
from .progress import check_cancelled, progress_bar

logger = logging.getLogger("latte")


def is_temporal(vae: Any) -> bool:
    """Whether a VAE's decoder looks at neighbouring frames."""
    return isinstance(getattr(vae.first_stage_model, "decoder", None), VideoDecoder)


@torch.no_grad()
def decode_clips(vae: Any, videos: Tensor, chunk_frames: int) -> Tensor:
    """Decode (B, 4, F, h, w) to (B * F, H, W, 3) in [0, 1].

    ComfyUI itself cuts a batch by free memory, which a temporal decoder shows; here a chunk is
    what was asked for and never spans two videos.

    Args:
        vae: image or temporal.
        videos: latents as sockets carry them, unscaled.
        chunk_frames: frames decoded together; 0 means the whole clip.

    Raises:
        NonFiniteError: if pixels are NaN or infinite even in float32.
    """
    size = chunk_frames or videos.shape[2]
    chunks = [chunk for video in videos for chunk in video.movedim(1, 0).split(size)]
    bar = progress_bar(len(chunks))
    frames: list[Tensor] = []
    for chunk in chunks:
        check_cancelled()
        frames.append(decode_chunk(vae, chunk.contiguous()))
        bar.update(1)
    return torch.cat(frames)


def decode_chunk(vae: Any, chunk: Tensor) -> Tensor:
    """Decode (F, 4, h, w) to (F, H, W, 3); an image VAE's frames go ComfyUI's own way."""
    if not is_temporal(vae):
        return require_finite(vae.decode(chunk).float())
    try:
        return require_finite(decode_together(vae, chunk))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside `except`: the failed attempt's tensors live as long as its exception.
    comfy.model_management.soft_empty_cache()
    return decode_in_parts(vae, chunk)


def decode_in_parts(vae: Any, chunk: Tensor) -> Tensor:
    """Decode half the frames at a time, or one frame in tiles, after running out of memory."""
    check_cancelled()
    if len(chunk) == 1:
        logger.warning("Latte: out of memory while decoding one frame; decoding it in tiles.")
        tiled = vae.decode_tiled(chunk, tile_x=64, tile_y=64, overlap=16)
        return require_finite(tiled.float())
    half = (len(chunk) + 1) // 2
    logger.warning(
        "Latte: out of memory while decoding %d frames together; decoding %d at a time, which "
        "changes frames at the seams slightly.",
        len(chunk),
        half,
    )
    return torch.cat([decode_chunk(vae, part) for part in chunk.split(half)])


def decode_together(vae: Any, chunk: Tensor) -> Tensor:
    """Run the decoder once on all frames of a chunk."""
    management = comfy.model_management
    needed = vae.memory_used_decode(chunk.shape, vae.vae_dtype) * len(chunk)
    management.load_models_gpu([vae.patcher], memory_required=needed)
    on_device = getattr(management, "cuda_device_context", contextlib.nullcontext)
    with on_device(vae.device):
        pixels = vae.first_stage_model.decode(chunk.to(device=vae.device, dtype=vae.vae_dtype))
    pixels = pixels.to(device=vae.output_device, dtype=torch.float32, copy=True)
    return vae.process_output(pixels).movedim(1, -1)


def require_finite(frames: Tensor) -> Tensor:
    """Return frames without NaN and infinity.

    Raises:
        NonFiniteError: naming what to try.
    """
    if bool(torch.isfinite(frames).all()):
        return frames
    raise NonFiniteError(
        "The VAE made pixels that are NaN or infinite, so no frames were given out. Start ComfyUI "
        "with --fp32-vae (or --bf16-vae); if the latents are broken, Latte Sampler says where."
    )
