"""The files of a prepared set, and the records that describe them.

SET/set.json                        written last; a set without it is unfinished
SET/latents-00000.safetensors ...   clips: `00000.mean` (T, C, h, w), and as the set has them
                                    `.std`, `.flipped_mean`, `.flipped_std`
SET/text-00000.safetensors ...      captions: `00000` (n, width); `empty` (120, width), the rows of
                                    the empty caption with its padding, in the first file
SET/unfinished.json                 while the set is being written: its settings and whole files

Latents are scaled. What a clip is called, its class and its captions stand in the header of its
file, so that the files written so far describe themselves. Caption 0 is the empty one; the others
are numbered in the order in which the clips name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...checks import MAX_FRAMES, check_integer
from ...errors import CorruptCheckpointError, InvalidInputError

SET_FILE = "set.json"
JOURNAL_FILE = "unfinished.json"
LATENTS = "latents"
TEXT = "text"
CLIPS_ENTRY = "clips"
CAPTIONS_ENTRY = "captions"
EMPTY_ROWS = "empty"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
READ_AT_ONCE = 2**22
MAX_CELLS = 1024
MAX_CHANNELS = 64
MAX_WIDTH = 65536
MAX_CLIPS = 2**31


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSetInfo:
    """What a set holds.

    Args:
        num_clips: clips.
        latent_height, latent_width: in cells.
        channels: of the latents.
        scaling_factor: latents = VAE output * scaling_factor.
        class_names: in the order of labels; empty without classes.
        text_width: features per token; None for a set without text.
        has_flips: whether every clip is there mirrored, too.
        has_std: whether the spread of the VAE's posterior is stored, not its mean alone.
        layout: how the videos lay in their folder, see `layouts.py`; "" if there were none.
        model: whose VAE and text encoder made it.
        dtype: name of the stored number format.
        details: what else the maker noted, such as digests of the VAE and the text encoder.

    Raises:
        InvalidInputError: for a value out of range.
    """

    num_clips: int
    latent_height: int
    latent_width: int
    channels: int
    scaling_factor: float
    class_names: tuple[str, ...]
    text_width: int | None
    has_flips: bool
    has_std: bool
    layout: str
    model: str
    dtype: str
    details: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        check_integer("num_clips", self.num_clips, 0, MAX_CLIPS)
        check_integer("latent_height", self.latent_height, 1, MAX_CELLS)
        check_integer("latent_width", self.latent_width, 1, MAX_CELLS)
        check_integer("channels", self.channels, 1, MAX_CHANNELS)
        if self.text_width is not None:
            check_integer("text_width", self.text_width, 1, MAX_WIDTH)
        if not 0 < self.scaling_factor < float("inf"):
            raise InvalidInputError(
                f"scaling_factor is {self.scaling_factor}, but it must be a number above 0."
            )
        if self.dtype not in DTYPES:
            raise InvalidInputError(
                f"dtype is {self.dtype!r}, but a set stores one of {', '.join(DTYPES)}."
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise InvalidInputError("Two classes have the same name; each needs its own.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """One whole file of a set.

    Args:
        name: of the file.
        sha256: of all its bytes.
        num_bytes: its size.
        count: clips or captions in it.
    """

    name: str
    sha256: str
    num_bytes: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """A clip that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """What a file's header says about one clip.

    Args:
        name: of the clip, once in a set.
        class_name: None without classes.
        captions: as written; may be empty.
        num_frames: T.
    """

    name: str
    class_name: str | None
    captions: tuple[str, ...]
    num_frames: int

    def __post_init__(self) -> None:
        check_integer("num_frames", self.num_frames, 1, MAX_FRAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class SetRecord:
    """All that set.json, or the journal of an unfinished set, says.

    Args:
        info: what the set holds.
        shards: files of clips, in order.
        text_shards: files of captions, in order.
        skipped: clips that were left out.
    """

    info: LatentSetInfo
    shards: tuple[ShardRecord, ...] = ()
    text_shards: tuple[ShardRecord, ...] = ()
    skipped: tuple[Skip, ...] = ()


def shard_name(kind: str, number: int) -> str:
    """Return the name of a file, `latents-00000.safetensors`."""
    return f"{kind}-{number:05d}.safetensors"


def key_of(place: int) -> str:
    """Return the key of a clip or caption by its place in its file."""
    return f"{place:05d}"


def describe_file(path: Path, count: int) -> ShardRecord:
    """Return the record of a whole file."""
    return ShardRecord(
        name=path.name, sha256=file_sha256(path), num_bytes=path.stat().st_size, count=count
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def damaged_set(path: Path, reason: str) -> CorruptCheckpointError:
    """Return the error for a file of a set that is not as it was written."""
    return CorruptCheckpointError(
        f"{path.name} of the prepared set {path.parent.name} is damaged: {reason}. "
        "Copy the set again, or prepare it again in a new folder."
    )


def number_captions(clips: Sequence[ClipRecord]) -> dict[str, int]:
    """Return the number of each caption: 0 for the empty one, then as the clips name them."""
    numbers = {"": 0}
    for clip in clips:
        for caption in clip.captions:
            numbers.setdefault(caption, len(numbers))
    return numbers
