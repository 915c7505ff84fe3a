"""What tells one text encoder on disk from another, without reading all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import CorruptCheckpointError

SAMPLES = 32  # pieces read of each file, evenly spread, the first and the last among them
SAMPLE_BYTES = 2**16


def fingerprint(files: Iterable[Path]) -> str:
    """Return a SHA-256 over names, sizes, times of change and samples of the contents of files.

    Small files are read whole. Another version of a large one differs in nearly every byte, so
    that samples tell them apart; a file that was edited in one place has another time of change.

    Raises:
        CorruptCheckpointError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        try:
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            with path.open("rb") as handle:
                for start in sample_starts(status.st_size):
                    handle.seek(start)
                    digest.update(handle.read(SAMPLE_BYTES))
        except OSError as error:
            raise CorruptCheckpointError(
                f"{path.name} in {path.parent.name} cannot be read: {error.strerror}. Download it "
                "again, or check who may read it."
            ) from error
    return digest.hexdigest()


def sample_starts(num_bytes: int) -> list[int]:
    """Return where samples of a file begin; together they are the whole of a small file."""
    if num_bytes <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, num_bytes, SAMPLE_BYTES))
    last = num_bytes - SAMPLE_BYTES
    return [index * last // (SAMPLES - 1) for index in range(SAMPLES)]
