"""Decode latents in pieces that follow from the size of a clip, not from free memory."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from torch import Tensor

from ....latte_core.errors import NonFiniteError
from ....latte_core.vae.checks import Progress
from ....latte_core.vae.pieces import ClipSize, Decoder, Plans, plan_by_size
from ....latte_core.vae.tiling import DecodePlan, count_pieces, decode_in_pieces
from ..base.progress import check_cancelled, progress_bar

logger = logging.getLogger("latte")


def is_temporal(vae: Any) -> bool:
    """Whether a VAE's decoder looks at neighbouring frames."""
    return isinstance(getattr(vae.first_stage_model, "decoder", None), VideoDecoder)


@torch.no_grad()
def decode_clips(vae: Any, videos: Tensor, chunk_frames: int) -> Tensor:
    """Decode (B, 4, F, h, w) to (B * F, H, W, 3) in [0, 1].

    ComfyUI itself cuts a batch by free memory, which a temporal decoder shows; here latte_core's
    plan is followed, and no piece ever spans two videos.

    Args:
        vae: image or temporal.
        videos: latents as sockets carry them, unscaled.
        chunk_frames: frames decoded together; 0 lets the size of the clip decide.

    Raises:
        NonFiniteError: if pixels are NaN or infinite.
    """
    if is_temporal(vae):
        return TemporalDecoding(vae, videos, chunk_frames or None).run()
    size = chunk_frames or videos.shape[2]
    chunks = [chunk for video in videos for chunk in video.movedim(1, 0).split(size)]
    bar = progress_bar(len(chunks))
    frames: list[Tensor] = []
    for chunk in chunks:
        check_cancelled()
        # ComfyUI's own way: frames do not depend on how many are decoded at a time.
        frames.append(require_finite(vae.decode(chunk.contiguous()).float()))
        bar.update(1)
    return torch.cat(frames)


class TemporalDecoding:
    """One run of a decoder that looks along time.

    Args:
        vae: of the kind that `is_temporal` finds.
        videos: (B, 4, F, h, w), unscaled.
        chunk: frames decoded together; None lets the size of the clip decide.
    """

    def __init__(self, vae: Any, videos: Tensor, chunk: int | None) -> None:
        self._vae, self._videos = vae, videos
        self._clip = ClipSize.of(videos)
        widths = decoder_widths(vae)
        self._scale = 2 ** (len(widths) - 1)
        decoder = Decoder.of(widths, is_temporal=True)
        first = plan_by_size(self._clip, decoder, chunk=chunk)
        if chunk is not None and first.chunk < min(chunk, self._clip.num_frames):
            logger.warning(
                "Latte: %d frames of this size are more than a decoder can count at once; decoding "
                "%d at a time.",
                min(chunk, self._clip.num_frames),
                first.chunk,
            )
        self._plans = Plans(first, self._clip, decoder)
        self._told = first
        bar = progress_bar(1)
        self._progress = Progress(lambda done, total: bar.update_absolute(done, total))

    def run(self) -> Tensor:
        """Return (B * F, H, W, 3) in [0, 1]."""
        self._make_room()
        frames: list[Tensor] = []
        for number in range(len(self._videos)):
            frames.append(self._decode_video(number))
        return torch.cat(frames)

    def _make_room(self) -> None:
        """Have ComfyUI free what the plan needs; if that is not to be had, need less.

        Where a card's driver takes main memory in place of an error, a plan that is too large
        would not fail but take minutes.
        """
        management, vae = comfy.model_management, self._vae
        itemsize = vae.vae_dtype.itemsize
        needed = self._plans.needed(itemsize)
        management.load_models_gpu([vae.patcher], memory_required=needed)
        # With dynamic memory, weights that can be let go count as free; the patcher knows them.
        ask = getattr(vae.patcher, "get_free_memory", management.get_free_memory)
        self._plans.fit(itemsize, float(ask(vae.device)))
        self._tell()

    def _decode_video(self, number: int) -> Tensor:
        """Return (F, H, W, 3) of one video, by smaller plans where memory runs out."""
        clip, latents = self._clip, self._videos[number].movedim(1, 0)

        def decode(plan: DecodePlan) -> Tensor:
            pieces = count_pieces(plan, clip.num_frames, clip.height, clip.width)
            self._progress.restart(number * pieces, len(self._videos) * pieces)
            return decode_in_pieces(self._decode_piece, latents, plan, self._scale)

        pixels = self._plans.run(decode, comfy.model_management.soft_empty_cache)
        self._tell()
        frames = self._vae.process_output(pixels)
        return require_finite(frames.to(self._vae.output_device))

    def _decode_piece(self, latents: Tensor) -> Tensor:
        """Run the decoder once: (N, 4, h, w) to (N, 3, H, W) float32 on the CPU."""
        check_cancelled()
        vae, management = self._vae, comfy.model_management
        on_device = getattr(management, "cuda_device_context", contextlib.nullcontext)
        given = latents.contiguous().to(device=vae.device, dtype=vae.vae_dtype)
        with on_device(vae.device):
            pixels = vae.first_stage_model.decode(given)
        self._progress.step()
        return pixels.to(device="cpu", dtype=torch.float32)

    def _tell(self) -> None:
        """Say it once when memory has made the plan smaller."""
        plan = self._plans.now
        if plan == self._told:
            return
        self._told = plan
        tiles = f" in tiles of {plan.tile * self._scale} pixels" if plan.tile is not None else ""
        logger.warning(
            "Latte: not enough memory to decode %d frames together; decoding %d at a time%s, which "
            "changes the frames slightly.",
            self._plans.first.chunk,
            plan.chunk,
            tiles,
        )


def decoder_widths(vae: Any) -> list[int]:
    """Return the channels of each level of a decoder, finest first."""
    return [int(level.block[0].conv1.weight.shape[0]) for level in vae.first_stage_model.decoder.up]


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
