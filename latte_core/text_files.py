"""Text as people have it: any usual encoding, any kind of line ending, and `~` in paths."""

from __future__ import annotations

import codecs
from pathlib import Path

from .errors import InvalidInputError

MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MOSTLY = 0.5  # share of zero bytes in every second place of UTF-16: of Latin letters, nearly all


def read_text(path: Path, *, most: int) -> str:
    """Return what a text file says, with "\\n" at the end of each line.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        InvalidInputError: if there is no such file, it is too large, or no text.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise InvalidInputError(
                f"{path.name} has {size:,} bytes, but {most:,} are read at most. It is another "
                "file than is wanted here."
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInputError(
            f"{path.name} cannot be read: {why}. Look whether it is there, and at its permissions."
        ) from error
    return decode_text(data, path.name)


def decode_text(data: bytes, name: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32, which its first bytes tell.

    Code pages of one country are not guessed at: most of them would give a wrong text silently.

    Args:
        data: all bytes of the file.
        name: of the file, for messages.

    Raises:
        InvalidInputError: naming the line and the byte that is no text.
    """
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in MARKS if data.startswith(mark)),
        (b"", _without_mark(data)),
    )
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, "replace").count("\n") + 1
        if encoding != "utf-8":
            raise InvalidInputError(
                f"{name} begins like {encoding[:6].upper()} text, but line {line} is damaged. Save "
                "it again, best as UTF-8."
            ) from error
        raise InvalidInputError(
            f"{name} is not UTF-8 text: line {line} holds the byte 0x{body[error.start]:02X}. It "
            "may be in a code page of Windows, such as cp1252 or GBK. Save it as UTF-8, as most "
            "editors can."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InvalidInputError(
            f"{name} is no text: line {line} holds a zero byte. Choose another file, or save it as "
            "UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_mark(data: bytes) -> str:
    """Return the encoding of bytes that no mark names."""
    half = len(data) // 2
    if half and len(data) % 2 == 0:
        if not data[::2].count(0) and data[1::2].count(0) > MOSTLY * half:
            return "utf-16-le"
        if not data[1::2].count(0) and data[::2].count(0) > MOSTLY * half:
            return "utf-16-be"
    return "utf-8"


def user_path(text: str) -> str:
    """Return a path with the home folder in place of a leading `~`, where there is one."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no home, or no such user: then it is a name like any other
        return text
