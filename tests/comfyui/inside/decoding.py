"""Checks of Latte VAE Decode: pieces by size, what ComfyUI is asked for, and short memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.model_management as management
import torch
from host import STARTER, Stage, expect

FACTOR = 0.18215  # latents on sockets are unscaled


def core_vae(stage: Stage) -> Any:
    """Return latte_core's VAE on the same weights."""
    read = stage.part("latte_core.checkpoint.reading.reader").read_tensors
    return stage.part("latte_core.vae.frames").VideoVAE.from_folder(
        STARTER / "vae_temporal_decoder", read=lambda path: dict(read(path).tensors)
    )


def decode(stage: Stage, videos: torch.Tensor, chunk_frames: int = 0) -> torch.Tensor:
    """Run the node on whole videos (B, 4, F, h, w)."""
    return stage.call(
        "LatteVAEDecode", samples={"samples": videos}, vae=stage.vae, chunk_frames=chunk_frames
    )[0]


@contextmanager
def watched(
    stage: Stage, *, most: float = float("inf"), free: float | None = None
) -> Iterator[dict[str, list[Any]]]:
    """Gather how many frames the decoder got, what ComfyUI was asked for, and what was said.

    Args:
        most: cells of all frames above which the decoder says that memory ran out.
        free: bytes that ComfyUI is to say are free.
    """
    seen: dict[str, list[Any]] = {"frames": [], "asked": [], "said": []}
    original, load = stage.vae.first_stage_model.decode, management.load_models_gpu

    def small_only(latents: torch.Tensor, **options: Any) -> torch.Tensor:
        seen["frames"].append(len(latents))
        if latents.numel() / 4 > most:
            raise RuntimeError("CUDNN_STATUS_ALLOC_FAILED")
        return original(latents, **options)

    def loaded(models: Any, memory_required: float = 0, **options: Any) -> Any:
        seen["asked"].append(memory_required)
        return load(models, memory_required=memory_required, **options)

    def say(record: logging.LogRecord) -> bool:
        seen["said"].append(record.getMessage())
        return False

    logger = logging.getLogger("latte")
    logger.addFilter(say)
    logger.setLevel(logging.WARNING)
    stage.vae.first_stage_model.decode = small_only
    real = management.get_free_memory

    def pretend(*given: Any, **named: Any) -> Any:
        return real(*given, **named) if free is None or len(given) > 1 or named else free

    try:
        with (
            patch.object(management, "load_models_gpu", loaded),
            patch.object(management, "get_free_memory", pretend),
        ):
            yield seen
    finally:
        del stage.vae.first_stage_model.decode
        logger.removeFilter(say)
        logger.setLevel(logging.NOTSET)


def check_long_clips_are_decoded_as_by_latte_core(stage: Stage) -> None:
    videos = torch.randn(2, 4, 30, 4, 6)
    core = core_vae(stage)
    for chunk, read in ((0, [18, 20, 6]), (14, [14, 14, 2]), (4096, [30])):
        with watched(stage) as seen:
            frames = decode(stage, videos, chunk)
        expected = core.decode(videos * FACTOR, chunk=chunk or None).flatten(0, 1)
        expect(seen["frames"] == read * 2, chunk, seen["frames"])
        error = float((frames - expected).abs().max())
        expect(error < 1e-4, chunk, error)
        expect(seen["said"] == [], seen["said"])


def check_comfyui_is_asked_for_what_a_piece_needs(stage: Stage) -> None:
    size = stage.vae.vae_dtype.itemsize
    per_cell = 7 * 32 * 64  # of the starter: seven tensors of 32 channels, 64 pixels to a cell
    for frames, read in ((16, 16), (40, 22)):
        with watched(stage) as seen:
            decode(stage, torch.randn(1, 4, frames, 4, 6))
        expect(seen["asked"] == [per_cell * read * 24 * size], frames, seen["asked"])
    stock = stage.vae.memory_used_decode((1, 4, 4, 6), stage.vae.vae_dtype)
    expect(stock > per_cell * 24 * size, "the image VAE's figure for one frame", stock)


def check_short_memory_makes_pieces_smaller_before_it_runs_out(stage: Stage) -> None:
    videos = torch.randn(1, 4, 16, 8, 8)
    room = 7 * 32 * 64 * 64 * stage.vae.vae_dtype.itemsize * 12
    with watched(stage, free=room) as seen:
        frames = decode(stage, videos)
    expect(seen["frames"] == [10, 10], seen["frames"])
    expect(len(seen["said"]) == 1 and "16 frames" in seen["said"][0], seen["said"])
    expect("decoding 8 at a time" in seen["said"][0], seen["said"])
    whole = decode(stage, videos)
    error = float((frames - whole).abs().mean())
    expect(0 < error < 0.02, error)
    with watched(stage, free=room * 2) as seen:
        expect(torch.equal(decode(stage, videos), whole))
    expect(seen["said"] == [], seen["said"])


def check_decoding_survives_lack_of_memory(stage: Stage) -> None:
    videos = torch.randn(2, 4, 12, 8, 8)
    with watched(stage, most=8 * 64) as seen:
        frames = decode(stage, videos)
    expect(seen["frames"] == [12, 8, 8, 8, 8], seen["frames"])
    expect(len(seen["said"]) == 1, seen["said"])
    whole = decode(stage, videos)
    expect(frames.shape == whole.shape and float((frames - whole).abs().mean()) < 0.02)


def check_lack_of_memory_for_one_frame_decodes_tiles(stage: Stage) -> None:
    videos = torch.randn(1, 4, 2, 16, 16)
    with watched(stage, most=2 * 64) as seen:
        frames = decode(stage, videos)
    expect(seen["frames"][0] == 2 and len(seen["frames"]) == 1 + 9, seen["frames"])
    expect("in tiles of 64 pixels" in seen["said"][0], seen["said"])
    expected = core_vae(stage).decode(videos * FACTOR, tile=64)[0]
    error = float((frames - expected).abs().max())
    expect(error < 1e-4, error)
