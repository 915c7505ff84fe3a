"""Whole files under their final names (docs/faults.md R49-R51), and the user's cache folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from .errors import CheckpointError, CorruptCheckpointError

FOLDER_VARIABLE = "LATTE_CACHE_DIR"
APPLICATION = "comfyui-latte"
MAX_JSON_BYTES = 16 * 2**20
REPLACE_WAITS = (0.01, 0.05, 0.2, 1.0)  # seconds, where the older file is in use


def default_file_mode() -> int:
    """Return the permission bits an ordinary new file gets under the current umask."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def replace_file(source: Path, target: Path) -> None:
    """Give a file its final name, waiting a moment for one who reads an older file of that name.

    Windows refuses to replace a file that another program has open.
    """
    for wait in (*REPLACE_WAITS, None):
        try:
            source.replace(target)
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)
        else:
            return


@contextmanager
def atomic_write(target: Path) -> Generator[Path]:
    """Yield a private path beside `target`; it takes the final name only if the block succeeds.

    The private file keeps the target's extension, because encoders choose a container by it. After
    an exception the private file is gone and an older file under the final name is untouched.
    """
    partial = target.with_name(f".{target.stem}.{uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.chmod(default_file_mode())
        replace_file(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Return the folder for what can be computed again.

    Args:
        environment: `LATTE_CACHE_DIR` wins; else the user's cache folder is used.
        platform: as `sys.platform`.
    """
    chosen = environment.get(FOLDER_VARIABLE, "").strip()
    if chosen:
        return Path(chosen).expanduser()
    home = Path.home()
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / APPLICATION
    if platform == "darwin":
        return home / "Library" / "Caches" / APPLICATION
    return Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / APPLICATION


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object from a small file.

    Args:
        path: of the file.
        limit: bytes that it may have, 16 MiB if nothing else is said.

    Raises:
        CheckpointError: if it cannot be opened.
        CorruptCheckpointError: if it is missing, longer than `limit`, or not a JSON object.
    """
    if not path.is_file():
        raise CorruptCheckpointError(
            f"{path.name} is missing in the folder {path.parent.name}. "
            "Download the whole folder again, or choose the folder that holds it."
        )
    place = f"{path.name} in {path.parent.name}"
    try:
        with path.open("rb") as handle:
            text = handle.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{place} cannot be opened: {error.strerror}.") from error
    if len(text) > limit:
        raise CorruptCheckpointError(
            f"{place} is longer than the {limit} bytes that it may have. It is another file; "
            "download the folder again."
        )
    return json_object(place, text)


def json_object(place: str, text: bytes | str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Args:
        place: where the text stood, to begin a message with.
        text: UTF-8 if it is bytes.

    Raises:
        CorruptCheckpointError: if it is not a JSON object.
    """
    try:
        value: object = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{place} is not JSON text. Download it again.") from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError(
            f"{place} holds a {type(value).__name__}, but it must hold a JSON object. "
            "Download it again."
        )
    return cast("dict[str, Any]", value)
