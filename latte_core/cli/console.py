"""Standard output and error as they are found: closed, cut off, or unable to show a character."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

CLOSED = ("EPIPE", "EINVAL", "EBADF", "ESHUTDOWN")  # Windows says EINVAL of a pipe that has closed


class Outlet:
    """A stream that shows what it can, and goes on in silence when nobody listens any more.

    The reader of a pipe may leave, as `head` does. The work it was told about is finished all the
    same: a training would lose hours otherwise.

    Args:
        stream: where text goes; None for a program without a console.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; what the encoding lacks is written as its number."""
        if self._stream is not None:
            try:
                self._stream.write(self._shown(text))
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _shown(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def _give_up(self, error: OSError | ValueError) -> None:
        """Drop all that follows if the other side has gone; a full disk is an error.

        Raises:
            OSError: for an error that is not the other side's end.
        """
        # What the stream has kept would be written, and fail again, when the program ends.
        with suppress(OSError, ValueError):
            assert self._stream is not None
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        self._stream = None
        closed = {getattr(errno, name, None) for name in CLOSED}
        if isinstance(error, OSError) and error.errno not in closed:
            raise error


@contextmanager
def outlets() -> Generator[None]:
    """Let everything that is printed go through an `Outlet`."""
    before = sys.stdout, sys.stderr
    made = Outlet(sys.stdout), Outlet(sys.stderr)
    sys.stdout, sys.stderr = (cast("TextIO", one) for one in made)
    try:
        yield
    finally:
        try:
            for one in made:
                one.flush()
        finally:
            sys.stdout, sys.stderr = before
