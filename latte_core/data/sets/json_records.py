"""Records of a prepared set to JSON and back; what comes back is checked piece by piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from ...checkpoint.writing.writer import unwritable
from ...errors import InvalidInputError
from ...files import atomic_write, read_json
from .format import ClipRecord, LatentSetInfo, SetRecord, ShardRecord, Skip, damaged_set

FORMAT = "latte-latent-set"
VERSION = 1

Kind = TypeVar("Kind")


def write_record(path: Path, record: SetRecord) -> None:
    """Write set.json or the journal, whole or not at all.

    Raises:
        CheckpointError: if the disk is full or the place cannot be written.
    """
    values = {"format": FORMAT, "version": VERSION, **asdict(record)}
    text = json.dumps(values, indent=1)
    try:
        with atomic_write(path) as partial:
            partial.write_text(f"{text}\n", encoding="ascii")
    except OSError as error:
        raise unwritable(path, len(text), error) from error


def read_record(path: Path) -> SetRecord:
    """Read set.json or the journal.

    Raises:
        CorruptCheckpointError: if it is missing, or not what `write_record` wrote.
        InvalidInputError: if another version of this package wrote it.
    """
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise damaged_set(path, f"it does not say that it is a {FORMAT}")
    if values.get("version") != VERSION:
        raise InvalidInputError(
            f"{path.parent.name} is a prepared set of version {values.get('version')!r}, but this "
            f"copy of the package reads version {VERSION}. Update the package, or prepare again."
        )
    try:
        return SetRecord(
            info=_info(_table(values, "info")),
            shards=tuple(_shard(one) for one in _tables(values, "shards")),
            text_shards=tuple(_shard(one) for one in _tables(values, "text_shards")),
            skipped=tuple(
                Skip(name=_get(one, "name", str), reason=_get(one, "reason", str))
                for one in _tables(values, "skipped")
            ),
        )
    except ValueError as error:  # ours, and those of the records themselves
        raise damaged_set(path, str(error).rstrip(".")) from error


def clips_to_text(clips: Sequence[ClipRecord]) -> str:
    """Return the header entry of a file's clips."""
    return json.dumps([asdict(one) for one in clips], separators=(",", ":"))


def clips_from_text(path: Path, text: str | None) -> list[ClipRecord]:
    """Read the header entry of a file's clips.

    Raises:
        CorruptCheckpointError: if there is none, or it is something else.
    """
    try:
        return [_clip(_object("clip", one)) for one in _list("clips", json.loads(text or ""))]
    except (ValueError, RecursionError) as error:
        raise damaged_set(path, "its header does not describe its clips") from error


def captions_to_text(captions: Sequence[str]) -> str:
    """Return the header entry of a file's captions."""
    return json.dumps(list(captions), separators=(",", ":"))


def captions_from_text(path: Path, text: str | None) -> list[str]:
    """Read the header entry of a file's captions.

    Raises:
        CorruptCheckpointError: if there is none, or it is something else.
    """
    try:
        return list(_texts("captions", json.loads(text or "")))
    except (ValueError, RecursionError) as error:
        raise damaged_set(path, "its header does not list its captions") from error


def _info(entry: dict[str, Any]) -> LatentSetInfo:
    width = entry.get("text_width")
    notes = _table(entry, "details")
    return LatentSetInfo(
        num_clips=_get(entry, "num_clips", int),
        latent_height=_get(entry, "latent_height", int),
        latent_width=_get(entry, "latent_width", int),
        channels=_get(entry, "channels", int),
        scaling_factor=_get(entry, "scaling_factor", float),
        class_names=_texts("class_names", entry.get("class_names")),
        text_width=None if width is None else _typed("text_width", width, int),
        has_flips=_get(entry, "has_flips", bool),
        has_std=_get(entry, "has_std", bool),
        layout=_get(entry, "layout", str),
        model=_get(entry, "model", str),
        dtype=_get(entry, "dtype", str),
        details={key: _typed(key, text, str) for key, text in notes.items()},
    )


def _shard(entry: dict[str, Any]) -> ShardRecord:
    return ShardRecord(
        name=_get(entry, "name", str),
        sha256=_get(entry, "sha256", str),
        num_bytes=_get(entry, "num_bytes", int),
        count=_get(entry, "count", int),
    )


def _clip(entry: dict[str, Any]) -> ClipRecord:
    class_name = entry.get("class_name")
    return ClipRecord(
        name=_get(entry, "name", str),
        class_name=None if class_name is None else _typed("class_name", class_name, str),
        captions=_texts("captions", entry.get("captions")),
        num_frames=_get(entry, "num_frames", int),
    )


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    return _object(name, values.get(name))


def _tables(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [_object(name, one) for one in _list(name, values.get(name))]


def _texts(name: str, value: object) -> tuple[str, ...]:
    return tuple(_typed(name, one, str) for one in _list(name, value))


def _object(name: str, value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", _typed(name, value, dict))


def _list(name: str, value: object) -> list[object]:
    return cast("list[object]", _typed(name, value, list))


def _get(values: dict[str, Any], name: str, kind: type[Kind]) -> Kind:
    return _typed(name, values.get(name), kind)


def _typed(name: str, value: object, kind: type[Kind]) -> Kind:
    """Return `value` if JSON gave it as `kind`; true is not a number, and 1 is a real number."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} is {type(value).__name__} instead of {kind.__name__}")
    return cast("Kind", value)
