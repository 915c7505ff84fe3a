"""Beginning a prepared set, or finding what a killed run has left of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from ...checkpoint.reading.sniff import reason_of
from ...errors import CheckpointError, InvalidInputError
from .check import check_captions, check_clips, open_shard
from .format import (
    JOURNAL_FILE,
    LATENTS,
    SET_FILE,
    TEXT,
    ClipRecord,
    LatentSetInfo,
    SetRecord,
    ShardRecord,
    shard_name,
)
from .json_records import read_record, write_record

PARTIAL_FILES = ".*.part.*"

logger = logging.getLogger("latte")


def resume(folder: Path, info: LatentSetInfo) -> tuple[SetRecord, list[ClipRecord], list[str]]:
    """Return what is there: the record of whole files, their clips, and their captions.

    A new folder is made, with a journal that keeps its settings.

    Args:
        folder: new, empty, or an unfinished set.
        info: settings, with no clips; those of an unfinished set must be the same.

    Raises:
        InvalidInputError: if the folder holds something else, a finished set, or a set with other
            settings.
        CheckpointError: if the folder cannot be made, or its journal is damaged.
    """
    journal = folder / JOURNAL_FILE
    _require_unfinished(folder)
    if not journal.is_file():
        _begin(folder)
        record = SetRecord(info=info)
        write_record(journal, record)
        return record, [], []
    record = read_record(journal)
    require_same(folder, record.info, info)
    for left in folder.glob(PARTIAL_FILES):
        left.unlink(missing_ok=True)
    shards = _whole(folder, record.shards, LATENTS)
    texts = _whole(folder, record.text_shards, TEXT)
    record = replace(record, shards=shards, text_shards=texts)
    clips: list[ClipRecord] = []
    for shard in shards:
        path = folder / shard.name
        clips += check_clips(path, open_shard(folder, shard, shard.name), shard, info)
    captions: list[str] = []
    for shard in texts:
        path = folder / shard.name
        captions += check_captions(path, open_shard(folder, shard, shard.name), shard, info)
    return record, clips, captions


def _require_unfinished(folder: Path) -> None:
    if (folder / SET_FILE).is_file():
        raise InvalidInputError(
            f"{folder.name} holds a finished prepared set already. Use it as it is, or choose "
            "another folder."
        )


def _begin(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [one.name for one in folder.iterdir() if not one.match(PARTIAL_FILES)]
    except OSError as error:
        raise CheckpointError(
            f"The folder {folder.name} cannot be made: {reason_of(error)}. Choose another place."
        ) from error
    if others:
        raise InvalidInputError(
            f"{folder.name} is not empty: it holds {sorted(others)[0]}, which is not of a prepared "
            "set. Choose a new folder."
        )


def require_same(folder: Path, found: LatentSetInfo, wanted: LatentSetInfo) -> None:
    """Refuse to go on with a set that was begun with other settings.

    Raises:
        InvalidInputError: naming the first that differs.
    """
    for field in fields(LatentSetInfo):
        old, new = getattr(found, field.name), getattr(wanted, field.name)
        if old != new:
            raise InvalidInputError(
                f"The prepared set {folder.name} was begun with {field.name} {old!r}, but now it "
                f"is {new!r}. Go on with the same settings, or choose a new folder."
            )


def _whole(folder: Path, shards: Sequence[ShardRecord], kind: str) -> tuple[ShardRecord, ...]:
    """Return the first files that are there in full length; those behind a gap are made again."""
    for number, shard in enumerate(shards):
        path = folder / shard_name(kind, number)
        if shard.name != path.name or not path.is_file() or path.stat().st_size != shard.num_bytes:
            logger.warning(
                "%s of the unfinished set %s is not whole; what follows it is made again.",
                path.name,
                folder.name,
            )
            return tuple(shards[:number])
    return tuple(shards)
