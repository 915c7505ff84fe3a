"""Whether a file of a prepared set is what the set says, judged by its header."""

from __future__ import annotations

from pathlib import Path

from ...checkpoint.reading.reader import read_header
from ...checkpoint.reading.records import FileHeader
from .format import (
    CAPTIONS_ENTRY,
    CLIPS_ENTRY,
    DTYPES,
    EMPTY_ROWS,
    ClipRecord,
    LatentSetInfo,
    ShardRecord,
    damaged_set,
    file_sha256,
    key_of,
)
from .json_records import captions_from_text, clips_from_text


def open_shard(
    folder: Path, shard: ShardRecord, expected_name: str, *, verify: bool = False
) -> FileHeader:
    """Return the header of a file of the recorded name and size.

    Args:
        folder: of the set.
        shard: what the set says.
        expected_name: what a file at this place is called.
        verify: compare the SHA-256 of the whole file, too.

    Raises:
        CheckpointError: if it is missing, of another size, or damaged.
    """
    path = folder / expected_name
    if shard.name != expected_name:
        raise damaged_set(path, "it is not where the set names it")
    header = read_header(path)
    if header.num_bytes != shard.num_bytes or not header.is_whole:
        raise damaged_set(path, f"it has {header.num_bytes} bytes instead of {shard.num_bytes}")
    if verify and file_sha256(path) != shard.sha256:
        raise damaged_set(path, "its bytes do not have the recorded SHA-256")
    return header


def check_clips(
    path: Path, header: FileHeader, shard: ShardRecord, info: LatentSetInfo
) -> list[ClipRecord]:
    """Return the clips of a file, each with all its tensors in the set's size.

    Raises:
        CorruptCheckpointError: if one is missing or of another size.
    """
    clips = clips_from_text(path, header.metadata.get(CLIPS_ENTRY))
    _check_count(path, len(clips), shard)
    names = moment_names(has_std=info.has_std, has_flips=info.has_flips)
    area = (info.channels, info.latent_height, info.latent_width)
    for place, clip in enumerate(clips):
        for name in names:
            _check_tensor(path, header, f"{key_of(place)}.{name}", (clip.num_frames, *area), info)
    return clips


def check_captions(
    path: Path, header: FileHeader, shard: ShardRecord, info: LatentSetInfo
) -> list[str]:
    """Return the captions of a file, each with its features.

    Raises:
        CorruptCheckpointError: if features are missing or of another width.
    """
    captions = captions_from_text(path, header.metadata.get(CAPTIONS_ENTRY))
    _check_count(path, len(captions), shard)
    keys = [key_of(place) for place in range(len(captions))]
    for key in (*keys, *([EMPTY_ROWS] if EMPTY_ROWS in header.tensors else ())):
        tokens = header.tensors[key].shape[:1] if key in header.tensors else ()
        _check_tensor(path, header, key, (*tokens, info.text_width or 0), info)
    return captions


def moment_names(*, has_std: bool, has_flips: bool) -> tuple[str, ...]:
    """Return what is stored of each clip."""
    plain = ("mean", "std") if has_std else ("mean",)
    return (*plain, *(f"flipped_{name}" for name in plain)) if has_flips else plain


def _check_count(path: Path, found: int, shard: ShardRecord) -> None:
    if found != shard.count:
        raise damaged_set(path, f"it describes {found} entries instead of {shard.count}")


def _check_tensor(
    path: Path, header: FileHeader, key: str, shape: tuple[int, ...], info: LatentSetInfo
) -> None:
    stored = header.tensors.get(key)
    if stored is None:
        raise damaged_set(path, f"{key} is missing")
    if stored.shape != shape or stored.dtype != DTYPES[info.dtype]:
        raise damaged_set(
            path, f"{key} is {stored.type_name} {stored.shape} instead of {info.dtype} {shape}"
        )
