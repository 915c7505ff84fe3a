"""A folder of videos to a prepared set: latents of every clip, features of every caption.

Clips are encoded one by one, each in calls of a fixed number of frames, so that the numbers do not
depend on what was prepared before, and a killed run ends in the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import MAX_FRAMES, check_integer
from ..errors import IncompatibleInputsError, InvalidInputError, UnreadableMediaError
from ..text.prompt import prepare_prompt
from ..types import LATENT_CHANNELS
from ..vae.frames import VideoVAE
from .decoding import DEFAULT_MAX_FRAMES, Piece, Reading, read_clip
from .encoding import encode_captions, encode_empty_rows, encode_moments
from .layouts import Clip, FoundClips, find_clips
from .model_parts import ModelParts, find_model_parts
from .sets import LatentSet, LatentSetInfo, LatentSetWriter
from .sets.format import SET_FILE
from .sets.resume import require_same
from .sets.writer import CLIPS_PER_SHARD
from .streams import reading_clips
from .transforms import Transform

MAX_WORKERS = 64
MAX_BATCH = 1024

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSettings:
    """How a set is prepared.

    Args:
        layout: how the videos lie, a name of `layouts.LAYOUTS`.
        height, width: of the frames in pixels; those that the model is trained on if left out.
        num_frames: of a training clip; shorter videos are skipped. The model's if left out.
        interval: between the frames of a training clip; matters to layouts with a fixed stride.
        max_frames: stored of one video, from its first.
        has_flips: store every clip mirrored, too.
        has_std: store the standard deviation of the VAE's posterior, too.
        dtype: to store numbers in.
        num_workers: clips that are decoded at the same time.
        batch: frames that the VAE encodes at once.
        clean_captions: clean captions as the pipeline cleans prompts.
        max_failures: share of clips that may be skipped, 0 to 1.
        clips_per_shard: clips in one file; those of an unfinished file are lost when a run ends.

    Raises:
        InvalidInputError: for a number out of range.
    """

    layout: str = "folder"
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    interval: int = 3
    max_frames: int = DEFAULT_MAX_FRAMES
    has_flips: bool = False
    has_std: bool = False
    dtype: str = "float16"
    num_workers: int = 2
    batch: int = 16
    clean_captions: bool = True
    max_failures: float = 0.5
    clips_per_shard: int = CLIPS_PER_SHARD

    def __post_init__(self) -> None:
        check_integer("max_frames", self.max_frames, 1, MAX_FRAMES)
        check_integer("num_workers", self.num_workers, 1, MAX_WORKERS)
        check_integer("batch", self.batch, 1, MAX_BATCH)
        if not 0 <= self.max_failures <= 1:
            raise InvalidInputError(
                f"max_failures is {self.max_failures}, but it is a share of the clips, from 0 to 1."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareStep:
    """What a callback is told after each clip and each few captions.

    Args:
        what: "clips" or "captions".
        done, total: of them.
        num_skipped: clips left out so far.
        num_damaged: clips of this run that cannot be read; they are left out, too.
    """

    what: str
    done: int
    total: int
    num_skipped: int
    num_damaged: int = 0


PrepareCallback = Callable[[PrepareStep], None]
"""Called after each step. An exception it raises ends the run, which can be gone on with."""


def prepare_set(
    videos: Path | str,
    target: Path | str,
    model: Path | str,
    settings: PrepareSettings | None = None,
    *,
    device: torch.device | str | None = None,
    precision: torch.dtype | None = None,
    callback: PrepareCallback | None = None,
) -> LatentSet:
    """Make a prepared set of a folder of videos, or go on with one that was begun.

    A set that is finished, from the same videos with the same settings, is opened as it is.

    Args:
        videos: folder, in the layout that the settings name.
        target: folder of the set.
        model: whose VAE and text encoder to use, see `find_model_parts`.
        settings: how.
        device: to run on; the accelerator if there is one.
        precision: of VAE and text encoder. Left out, the VAE runs in float32 and the text encoder
            as in the pipeline.
        callback: is told the progress.

    Raises:
        InvalidInputError: for videos, a model or settings that cannot be used, or if more clips
            than allowed had to be skipped.
        CheckpointError: if a part of the model is missing or damaged, or a file cannot be written.
        NonFiniteError: if the model gives NaN, or numbers too large to be stored.
        MissingDependencyError: if a package is missing.
    """
    settings = settings or PrepareSettings()
    parts = find_model_parts(model)
    found = find_clips(videos, settings.layout)
    reading = _reading(found, parts, settings)
    if parts.text_encoder is not None:
        _check_captions(found, settings)
    vae = parts.open_vae(device, precision)
    if not vae.can_encode:
        raise IncompatibleInputsError(
            f"The VAE of {parts.name} only decodes: its file holds no encoder. Put the image VAE "
            "beside the model."
        )
    described = _description(found, parts, settings, reading, vae)
    folder = Path(target)
    if (folder / SET_FILE).is_file():
        return _open_finished(folder, found, described)
    writer = LatentSetWriter(folder, **described, clips_per_shard=settings.clips_per_shard)
    tell = _Teller(writer, callback)
    _encode_clips(found, writer, vae, reading, settings, tell)
    del vae  # the text encoder may need its memory
    if parts.text_encoder is not None and writer.num_clips:
        encoder = parts.open_text_encoder(device, precision)
        writer.add_texts(
            partial(encode_captions, encoder, clean_caption=settings.clean_captions),
            empty_rows=encode_empty_rows(encoder),
            callback=partial(tell, "captions"),
        )
    return writer.finish()


class _Teller:
    """Hands progress to a callback."""

    def __init__(self, writer: LatentSetWriter, callback: PrepareCallback | None) -> None:
        self._writer = writer
        self._callback = callback
        self.num_damaged = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._callback is not None:
            skipped = len(self._writer.skipped)
            self._callback(
                PrepareStep(
                    what=what,
                    done=done,
                    total=total,
                    num_skipped=skipped,
                    num_damaged=self.num_damaged,
                )
            )


def _reading(found: FoundClips, parts: ModelParts, settings: PrepareSettings) -> Reading:
    """Return how the clips are to be read."""
    num_frames = parts.num_frames if settings.num_frames is None else settings.num_frames
    needed = found.layout.num_needed(num_frames, settings.interval)
    if settings.max_frames < needed:
        raise InvalidInputError(
            f"{settings.max_frames} frames of each video are to be stored, but training on "
            f"{num_frames} at interval {settings.interval} needs {needed}. Store more."
        )
    return Reading(
        transform=Transform(
            kind=found.layout.transform,
            height=settings.height or parts.height,
            width=settings.width or parts.width,
        ),
        num_needed=needed,
        most=settings.max_frames,
        at_once=settings.batch,
        has_flips=settings.has_flips,
    )


def _check_captions(found: FoundClips, settings: PrepareSettings) -> None:
    """Find out before the long work whether captions can be cleaned, and which clips have none."""
    prepare_prompt("a", settings.clean_captions)
    lacking = sum(not clip.captions and not clip.problem for clip in found.clips)
    if lacking:
        logger.warning(
            "%d of %d clips have no caption and are learned under the empty one. Captions go into "
            "NAME.txt beside each video, or into captions.jsonl or captions.csv.",
            lacking,
            len(found.clips),
        )


def _description(
    found: FoundClips,
    parts: ModelParts,
    settings: PrepareSettings,
    reading: Reading,
    vae: VideoVAE,
) -> dict[str, Any]:
    """Return the settings of the set; one that was begun with others is not gone on with."""
    transform = reading.transform
    return {
        "latent_height": transform.height // vae.config.compression,
        "latent_width": transform.width // vae.config.compression,
        "scaling_factor": vae.scaling_factor,
        "model": parts.name,
        "channels": LATENT_CHANNELS,
        "class_names": found.class_names,
        "text_width": parts.text_width,
        "has_flips": settings.has_flips,
        "has_std": settings.has_std,
        "layout": found.layout.name,
        "dtype": settings.dtype,
        "details": {
            **parts.digests(),
            "size": f"{transform.width} x {transform.height}",
            "transform": transform.kind,
            "sampling": found.layout.style,
            "shortest_clip": str(reading.num_needed),
            "longest_clip": str(reading.most),
            "frames_at_once": str(reading.at_once),
            "caption_text": "cleaned" if settings.clean_captions else "as written",
        },
    }


def _open_finished(folder: Path, found: FoundClips, described: dict[str, Any]) -> LatentSet:
    """Open a set that is there, if preparing it again would give the same."""
    there = LatentSet.open(folder)
    num_clips = there.info.num_clips
    require_same(folder, there.info, LatentSetInfo(num_clips=num_clips, **described))
    if num_clips + len(there.skipped) != len(found.clips):
        raise InvalidInputError(
            f"The prepared set {folder.name} was made of {num_clips + len(there.skipped)} clips, "
            f"but now there are {len(found.clips)}. Prepare them into a new folder."
        )
    return there


def _encode_clips(
    found: FoundClips,
    writer: LatentSetWriter,
    vae: VideoVAE,
    reading: Reading,
    settings: PrepareSettings,
    tell: _Teller,
) -> None:
    """Add every clip that is not stored yet; what cannot be used is skipped."""
    waiting = [clip for clip in found.clips if clip.name not in writer]
    before = len(found.clips) - len(waiting)
    read = partial(read_clip, reading=reading)
    with reading_clips(waiting, read, settings.num_workers) as streams:
        for done, stream in enumerate(streams, before + 1):
            try:
                moments = _encode_clip(vae, stream.pieces(), settings)
            except InvalidInputError as error:
                tell.num_damaged += isinstance(error, UnreadableMediaError)
                writer.skip(stream.clip.name, str(error))
                _require_few(writer, len(found.clips), settings.max_failures)
            else:
                _add(writer, stream.clip, moments)
            tell("clips", done, len(found.clips))


def _encode_clip(
    vae: VideoVAE, pieces: Iterator[Piece], settings: PrepareSettings
) -> dict[str, Tensor]:
    """Return what the set stores of a clip."""
    parts: dict[str, list[Tensor]] = {}
    for piece in pieces:
        for prefix, frames in (("", piece.frames), ("flipped_", piece.flipped)):
            if frames is None:
                continue
            mean, std = encode_moments(vae, frames)
            parts.setdefault(f"{prefix}mean", []).append(mean)
            if settings.has_std:
                parts.setdefault(f"{prefix}std", []).append(std)
    return {name: torch.cat(some) for name, some in parts.items()}


def _add(writer: LatentSetWriter, clip: Clip, moments: dict[str, Tensor]) -> None:
    writer.add(
        moments["mean"],
        moments.get("std"),
        captions=clip.captions,
        class_name=clip.class_name,
        name=clip.name,
        flipped_mean=moments.get("flipped_mean"),
        flipped_std=moments.get("flipped_std"),
    )


def _require_few(writer: LatentSetWriter, total: int, share: float) -> None:
    """Stop when so many clips were skipped that something else is wrong."""
    skipped = writer.skipped
    if len(skipped) > share * total:
        raise InvalidInputError(
            f"{len(skipped)} of {total} clips cannot be used, which is more than the {share:.0%} "
            f"that are allowed. The first: {skipped[0].reason} Repair or remove them, or allow "
            "more to be skipped."
        )
