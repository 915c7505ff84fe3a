"""Section 5: a video under each memory preset, on a card cut down to that preset's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measuring.card import GB, StagePeaks
from measuring.core import import_core
from torch import Tensor

from gpu_sections.session import Found, Session

PROMPT = "a cat wearing sunglasses at a pool"


def run(session: Session, found: Found) -> None:
    """Make the same video under every preset, the roomiest first."""
    folder = session.models.whole()
    first: dict[str, Tensor] = {}
    peaks: Found = {}
    for name in import_core("memory").PRESETS:
        made = session.attempt(
            found, name, lambda name=name: measure_preset(session, folder, name, first)
        )
        session.card.limit(None)
        peaks[name] = None if made is None else made["peak_gb"]
        session.figure("peak_gb", peaks)


def measure_preset(session: Session, folder: Path, name: str, first: dict[str, Tensor]) -> Found:
    """Make a video with so much memory as the preset is named after, and no more.

    Args:
        folder: of the model.
        name: of the preset.
        first: keeps what the first preset made, which the others are compared with.
    """
    card, few = session.card, session.sizes.few_steps
    card.free()
    held = card.start_peak()
    card.limit(float(name) * GB)
    dtype = getattr(torch, session.sizes.dtypes[0])

    def opened() -> Any:
        return import_core("pipelines.text.pipeline").Pipeline.from_pretrained(
            folder, dtype=dtype, device=card.device, memory=name, embedding_cache="off"
        )

    pipeline, opening = card.wall(opened)
    stages = StagePeaks(pipeline, card)

    def make() -> Any:
        frames = session.sizes.frames
        return pipeline(PROMPT, num_steps=few, num_frames=frames, callback=stages.on_step)

    stages.start()
    made, seconds = card.wall(make)
    stages.stop()
    latents = first.setdefault("latents", made.latents)
    frames = first.setdefault("frames", made.frames)
    return {
        "peak_gb": round(max(stages.peaks.values()) / GB, 3),
        "held_before_gb": round(held / GB, 3),
        "peaks_gb": {stage: round(peak / GB, 3) for stage, peak in stages.peaks.items()},
        "reckoned_gb": reckoned(pipeline, folder, dtype),
        "latents_equal": torch.equal(made.latents, latents),
        "latents_max_difference": float((made.latents - latents).abs().max()),
        "frames_equal": torch.equal(made.frames, frames),
        "frames_max_difference": float((made.frames - frames).abs().max()),
        "seconds": round(seconds, 3),
        "seconds_to_open": round(opening, 3),
        "steps": few,
    }


def reckoned(pipeline: Any, folder: Path, dtype: torch.dtype) -> dict[str, float]:
    """Return the GB that the package reckons each stage of a pipeline needs."""
    folders = import_core("shipped").VAE_FOLDERS.values()
    best = pipeline.defaults
    sizes = import_core("pipelines.part_sizes").part_sizes(
        pipeline.parts.transformer,
        vae_folders=[folder / name for name in folders],
        dtype=dtype,
        num_frames=best.num_frames,
        height=best.height,
        width=best.width,
    )
    text = folder / import_core("pipelines.model_folders").TEXT_FOLDER
    sizes = import_core("pipelines.text.encoder_folder").with_text_encoder(sizes, text, dtype)
    stages = import_core("memory").stage_bytes(pipeline.parts.stages.plan, sizes)
    return {stage: round(size / GB, 3) for stage, size in stages.items()}
