"""Which files had the right digest or checksums, so that all of their bytes need not be read again.

Only this work is left out: the structure of a file, what its pickle would import, and the numbers
in its tensors are checked whenever it is opened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...files import atomic_write, cache_folder

LIST_NAME = "verified-files.json"
LISTED_BYTES = 2**24  # of a file; smaller ones are verified sooner than looked up
MOST_LISTED = 256
MOST_LIST_BYTES = 2**18
SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system; a change within a tick cannot be seen


@dataclass(slots=True)
class VerifiedFiles:
    """Remembers which files had the right digest, for a caller that opens them again.

    A file is known by its name, size and time of change; a replaced one is verified anew.
    """

    seen: set[tuple[str, int, int]] = field(default_factory=set[tuple[str, int, int]])

    def knows(self, path: Path, handle: BinaryIO) -> bool:
        """Return whether this very file was verified before."""
        return self.key(path, handle) in self.seen

    def remember(self, path: Path, handle: BinaryIO) -> None:
        """Note that the file has the right digest."""
        self.seen.add(self.key(path, handle))

    @staticmethod
    def key(path: Path, handle: BinaryIO) -> tuple[str, int, int]:
        """Return name, size and time of change."""
        status = os.fstat(handle.fileno())
        return (str(path.absolute()), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class VerifiedList:
    """Files that were verified, by what changes with every change of theirs, for all processes.

    A list that cannot be read, or is damaged, is an empty one; one that cannot be written is left.

    Args:
        path: of the list, or None for no list.
    """

    path: Path | None

    @classmethod
    def of_user(cls, environment: Mapping[str, str], num_bytes: int) -> VerifiedList:
        """Return the list in the user's cache folder, none for a small file.

        Args:
            environment: as for `cache_folder`.
            num_bytes: of the file that is verified.
        """
        if num_bytes < LISTED_BYTES:
            return cls(None)
        try:
            return cls(cache_folder(environment) / LIST_NAME)
        except RuntimeError:  # there is no home
            return cls(None)

    def identity(self, handle: BinaryIO) -> str | None:
        """Return what tells an open file, as it is, from any other; None if nothing surely does."""
        if self.path is None:
            return None
        status = os.fstat(handle.fileno())
        times = (status.st_mtime_ns, status.st_ctime_ns)
        if not status.st_ino or time.time_ns() - max(times) < SETTLED_NS:
            return None
        return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))

    def knows(self, identity: str | None) -> bool:
        """Return whether this very file was verified before."""
        return identity is not None and identity in self._read()

    def remember(self, identity: str | None) -> None:
        """Note that the file is as its digest or its checksums say."""
        if identity is None or self.path is None:
            return
        kept = [one for one in self._read() if one != identity][1 - MOST_LISTED :]
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as partial:
                partial.write_text(json.dumps({"files": [*kept, identity]}), encoding="ascii")

    def _read(self) -> list[str]:
        """Return all identities, those noted last at the end."""
        if self.path is None:
            return []
        try:
            if self.path.stat().st_size > MOST_LIST_BYTES:
                return []
            values: Any = json.loads(self.path.read_text(encoding="ascii"))
            found: object = values["files"]
        except (OSError, ValueError, RecursionError, LookupError, TypeError):
            return []
        if not isinstance(found, list):
            return []
        return [one for one in cast("list[object]", found) if isinstance(one, str)]
