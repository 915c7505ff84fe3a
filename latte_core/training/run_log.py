"""The log of a run: one JSON object of numbers on each line, one line for each report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

MARK = 256  # bytes in front of where reading goes on that show whether it is still the same log

Entry = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened since the last report.

    Args:
        step: updates made so far.
        loss, squared, variational: means; `loss` is what was minimised.
        norm: of the last gradient, before it was limited.
        rate: learning rate of the last update.
        clips_per_second: over all processes.
    """

    step: int
    loss: float
    squared: float
    variational: float
    norm: float
    rate: float
    clips_per_second: float


def parse_line(line: str | bytes) -> Entry | None:
    """Return what a line says; None for one that a kill cut off, or that is damaged."""
    try:
        entry: object = json.loads(line)
    except ValueError:
        return None
    return cast(Entry, entry) if isinstance(entry, dict) and "step" in entry else None


class LogReader:
    """Reads a log that grows, each whole line once.

    A log that is not the one that was read, because it was cut, replaced or removed, is read again
    from its start.

    Args:
        path: of the log; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._mark = b""  # the last bytes in front of the offset

    def read(self) -> tuple[bool, list[Entry]]:
        """Return whether reading began anew, and the entries of all lines not yet read."""
        if not self._path.is_file():
            begins = self._offset > 0
            self._offset, self._mark = 0, b""
            return begins, []
        with self._path.open("rb") as handle:
            handle.seek(self._offset - len(self._mark))
            begins = handle.read(len(self._mark)) != self._mark
            if begins:
                handle.seek(0)
                self._offset, self._mark = 0, b""
            whole, end, _ = handle.read().rpartition(b"\n")
        read = whole + end
        self._offset += len(read)
        self._mark = (self._mark + read)[-MARK:]
        return begins, [entry for line in whole.splitlines() if (entry := parse_line(line))]
