"""Join the shards of one set of weights: by an index, else by the count in their own names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from ...errors import CorruptCheckpointError
from ...files import read_json
from .records import damaged, shown

log = logging.getLogger("latte")

MAX_SHARDS = 1000
SHOWN_FILES = 5
MAX_NAME_BYTES = 255  # of a file on every usual system
# An index of a variant is `X.fp16.safetensors.index.json` in transformers and older diffusers, and
# `X.safetensors.index.fp16.json` in newer diffusers.
INDEX = re.compile(
    r"(?P<stem>[^.]+)(?:\.(?P<before>[\w-]+))?\.(?P<type>safetensors|bin)\.index"
    r"(?:\.(?P<after>[\w-]+))?\.json"
)
SHARD = re.compile(
    r"(?P<stem>[^.].*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>[\w.-]*)\.(?P<type>safetensors|bin)"
)
# What downloaders call a file that has not arrived whole.
PARTIAL_ENDINGS = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")


def joined_shards(folder: Path) -> list[Path]:
    """Return the shards of `folder` in order, none if it has no set of shards.

    Of several sets one that is whole is taken: safetensors first, and no variant first.

    Raises:
        CorruptCheckpointError: if no set is whole, naming the missing files; or if an index names
            a file that is not beside it.
    """
    sets = [(index.name, shards_of(index)) for index in index_files(folder)] or counted_sets(folder)
    if not sets:
        return []
    for name, files in sets:
        if all(file.is_file() for file in files):
            if len(sets) > 1:
                log.info("%s holds %d sets of shards; %s is used.", folder.name, len(sets), name)
            return files
    raise lacking(folder, sets[0][1])


def index_files(folder: Path) -> list[Path]:
    """Return the shard indexes of `folder`, the one to prefer first."""
    found = [(INDEX.fullmatch(path.name), path) for path in folder.glob("*.json")]
    ranked = [
        (match["type"] != "safetensors", match["before"] or match["after"] or "", path.name, path)
        for match, path in found
        if match is not None and path.is_file()
    ]
    return [path for *_, path in sorted(ranked)]


def shards_of(index: Path) -> list[Path]:
    """Return the files that a shard index names, each beside the index.

    Raises:
        CorruptCheckpointError: if it names none, too many, or one that is elsewhere.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise damaged(index.name, "it maps no weights to files")
    names: dict[str, None] = {}
    for name in cast("dict[str, object]", table).values():
        if not is_plain_name(name):
            raise damaged(index.name, f"it names {shown(str(name))}, which is no file beside it")
        names[cast("str", name)] = None
    if len(names) > MAX_SHARDS:
        raise damaged(index.name, f"it names {len(names)} files")
    return [index.with_name(name) for name in names]


def is_plain_name(name: object) -> bool:
    """Return whether `name` is that of a file in the same folder, on every system."""
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return False
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        return False
    return not any(mark in name for mark in "/\\:")


def counted_sets(folder: Path) -> list[tuple[str, list[Path]]]:
    """Return the sets of shards that only count themselves: X-00001-of-00002.safetensors."""
    sets: dict[tuple[bool, str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        match = SHARD.fullmatch(path.name)
        if match is None or not 1 <= int(match["count"]) <= MAX_SHARDS:
            continue
        stem, rest, kind = match["stem"], match["rest"], match["type"]
        total = match["count"]
        names = [
            f"{stem}-{number:05d}-of-{total}{rest}.{kind}" for number in range(1, int(total) + 1)
        ]
        sets[kind != "safetensors", f"{stem}{rest}", total] = [folder / name for name in names]
    return [(f"{stem}-*", files) for (_, stem, _), files in sorted(sets.items())]


def lacking(folder: Path, files: Iterable[Path]) -> CorruptCheckpointError:
    """Return the error for a set of shards of which some are not there."""
    listed = list(files)
    missing = [shown(file.name) for file in listed if not file.is_file()]
    more = f" and {len(missing) - SHOWN_FILES} more" if len(missing) > SHOWN_FILES else ""
    return CorruptCheckpointError(
        f"{folder.name} lacks {len(missing)} of {len(listed)} weight files: "
        f"{', '.join(missing[:SHOWN_FILES])}{more}. {partial_downloads(folder)}"
        "Download them again."
    )


def partial_downloads(folder: Path) -> str:
    """Return the sentence that names files which a downloader has not finished, or nothing."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PARTIAL_ENDINGS)
    if not names:
        return ""
    listed = ", ".join(shown(name) for name in names[:SHOWN_FILES])
    return f"Not finished downloading: {listed}. "
