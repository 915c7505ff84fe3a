"""Whole files under their final names (docs/faults.md R49-R51), and the user's cache folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from .errors import CheckpointError, CorruptCheckpointError, InvalidInputError
from .text_files import decode_text

FOLDER_VARIABLE = "LATTE_CACHE_DIR"
APPLICATION = "comfyui-latte"
MAX_JSON_BYTES = 16 * 2**20
REPLACE_WAITS = (0.01, 0.05, 0.2, 1.0)  # seconds, where the older file is in use
# What a disk says when data did not reach it. Other answers to a wish to wait for the data mean
# that a file system, such as that of a network share, does not know the wish.
NOT_STORED = ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS")
IN_USE = ("EACCES", "EPERM", "EBUSY", "ETXTBSY")
NO_RENAMING = ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EXDEV")

logger = logging.getLogger("latte")


def default_file_mode() -> int:
    """Return the permission bits an ordinary new file gets under the current umask."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def replace_file(source: Path, target: Path) -> None:
    """Give a file its final name, waiting a moment for one who reads an older file of that name.

    Windows and network shares refuse to replace a file that another program has open. Where a disk
    cannot rename at all, as object stores cannot, the file is copied, which is told.

    Raises:
        OSError: if neither can be done; the older file is untouched unless copying failed.
    """
    for wait in (*REPLACE_WAITS, None):
        try:
            source.replace(target)
        except OSError as error:
            if _is_one_of(error, NO_RENAMING):
                return _copy_file(source, target)
            if not _is_one_of(error, IN_USE):
                raise
            if wait is None:
                raise _in_use(error, target) from error
            time.sleep(wait)
        else:
            return None
    return None


def rename_folder(source: Path, target: Path) -> None:
    """Give a folder its final name, which is free, as `replace_file` does it with a file.

    Raises:
        OSError: if it can neither be renamed nor copied.
    """
    for wait in (*REPLACE_WAITS, None):
        try:
            source.rename(target)
        except OSError as error:
            if _is_one_of(error, NO_RENAMING):
                _tell_copied(target)
                shutil.copytree(source, target, copy_function=shutil.copyfile)
                return
            if not _is_one_of(error, IN_USE) or wait is None:
                raise
            time.sleep(wait)  # a scanner of viruses has a file of it open
        else:
            return


@contextmanager
def atomic_write(target: Path) -> Generator[Path]:
    """Yield a private path beside `target`; it takes the final name only if the block succeeds.

    The private file keeps the target's extension, because encoders choose a container by it. After
    an exception the private file is gone and an older file under the final name is untouched.
    Permissions, and waiting until the disk has the data, are left out where a file system knows
    nothing of them.
    """
    partial = target.with_name(f".{target.stem}.{uuid4().hex[:8]}.part{target.suffix}")
    try:
        yield partial
        _wait_for_disk(partial)
        with suppress(OSError):
            partial.chmod(default_file_mode())
        replace_file(partial, target)
    finally:
        with suppress(OSError):  # it could hide what went wrong before
            partial.unlink(missing_ok=True)


def _wait_for_disk(path: Path) -> None:
    """Wait until a disk has stored a file, if it can say so."""
    try:
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
    except OSError as error:
        if _is_one_of(error, NOT_STORED) or isinstance(error, FileNotFoundError):
            raise


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file to its final name; half of it is not left there."""
    _tell_copied(target)
    try:
        shutil.copyfile(source, target)
        _wait_for_disk(target)
    except BaseException:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        raise


def _tell_copied(target: Path) -> None:
    logger.warning(
        "The disk of %s cannot rename files, so they are copied to their names. Should the machine "
        "stop meanwhile, look whether the last of them is whole.",
        target.parent.name,
    )


def _is_one_of(error: OSError, names: Sequence[str]) -> bool:
    """Whether an error is one of these, by names of which a system need not know every one."""
    return error.errno in {getattr(errno, name, None) for name in names}


def _in_use(error: OSError, target: Path) -> OSError:
    """Return an error that says why a file cannot be replaced."""
    if not target.exists():
        return error
    why = f"{target.name} is open in another program or protected, and cannot be replaced"
    return type(error)(error.errno, why)


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
        text: in any usual encoding if it is bytes.

    Raises:
        CorruptCheckpointError: if it is not a JSON object.
    """
    try:
        value: object = json.loads(text if isinstance(text, str) else decode_text(text, place))
    except InvalidInputError as error:  # another encoding: downloading again would not help
        raise CorruptCheckpointError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{place} is not JSON text. Download it again.") from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError(
            f"{place} holds a {type(value).__name__}, but it must hold a JSON object. "
            "Download it again."
        )
    return cast("dict[str, Any]", value)
