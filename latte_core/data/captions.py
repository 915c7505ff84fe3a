"""Captions of clips: a text beside each, or one table for all.

NAME.txt beside the video or folder NAME holds one caption on each line. Or captions.jsonl or
captions.csv in the folder of the data set names the clip (`file`) and what is said of it
(`caption`: a text; in .jsonl also a list); a clip may come in several rows.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from ..errors import InvalidInputError
from ..text_files import read_text

TABLES = ("captions.jsonl", "captions.csv")
MAX_LENGTH = 10_000  # characters; 120 tokens of them are used
MAX_TEXT_BYTES = 2**20
MAX_TABLE_BYTES = 2**30

logger = logging.getLogger("latte")

Row = tuple[str, list[str]]


def read_captions(
    root: Path, clips: Mapping[str, Path], problems: dict[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the captions of the clips that have any.

    Args:
        root: folder of the data set.
        clips: path of each clip, by its name.
        problems: takes what is wrong with the text beside a clip, by the clip's name; left out, it
            is raised.

    Raises:
        InvalidInputError: if a table or a text cannot be read, names no clip at all, or there is
            more than one source of captions.
    """
    tables = [root / name for name in TABLES if (root / name).is_file()]
    texts = {name: _text_beside(path) for name, path in clips.items()}
    beside = {name: path for name, path in texts.items() if path.is_file()}
    if len(tables) > 1 or (tables and beside):
        other = tables[1].name if len(tables) > 1 else next(iter(beside.values())).name
        raise InvalidInputError(
            f"{root.name} has captions in {tables[0].name} and in {other}. Keep one of them."
        )
    if tables:
        return _from_table(tables[0], clips)
    found: dict[str, tuple[str, ...]] = {}
    for name, path in beside.items():
        try:
            found[name] = _from_text(path)
        except InvalidInputError as error:
            if problems is None:
                raise
            problems[name] = str(error)
    return {name: texts for name, texts in found.items() if texts}


def _text_beside(path: Path) -> Path:
    """Return NAME.txt for NAME.mp4, or for the folder NAME."""
    return path.with_name(f"{path.name if path.is_dir() else path.stem}.txt")


def _from_text(path: Path) -> tuple[str, ...]:
    lines = (line.strip() for line in read_text(path, most=MAX_TEXT_BYTES).split("\n"))
    return _distinct(path, [line for line in lines if line])


def _from_table(path: Path, clips: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    read: Callable[[Path], Iterator[Row]] = _json_rows if path.suffix == ".jsonl" else _csv_rows
    found: dict[str, list[str]] = {}
    unknown: list[str] = []
    for file, captions in read(path):
        name = file.replace("\\", "/").removeprefix("./")
        if name not in clips:
            unknown.append(file)
            continue
        found.setdefault(name, []).extend(captions)
    if unknown and not found:
        raise InvalidInputError(
            f"{path.name} names no clip of {path.parent.name}: it names {unknown[0]!r}, but the "
            f"clips are called like {next(iter(clips))!r}."
        )
    if unknown:
        logger.warning(
            "%s names %d clips that are not there, such as %r.",
            path.name,
            len(unknown),
            unknown[0],
        )
    return {name: _distinct(path, texts) for name, texts in found.items() if texts}


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path, most=MAX_TABLE_BYTES).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        row = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        yield _row(path, number, row.get("file"), row.get("caption"))


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        for row in (
            reader := csv.DictReader(io.StringIO(read_text(path, most=MAX_TABLE_BYTES), newline=""))
        ):
            yield _row(path, reader.line_num, row.get("file"), row.get("caption"))
    except csv.Error as error:
        raise InvalidInputError(f"{path.name} is not a table of commas: {error}.") from error


def _row(path: Path, number: int, file: object, caption: object) -> Row:
    listed = cast("list[object]", caption) if isinstance(caption, list) else [caption]
    texts = [one.strip() for one in listed if isinstance(one, str)]
    if not isinstance(file, str) or len(texts) < len(listed):
        raise InvalidInputError(
            f"Line {number} of {path.name} does not give file and caption as text. "
            + (
                'Each line must read like {"file": "clip.mp4", "caption": "a red circle"}.'
                if path.suffix == ".jsonl"
                else "The first line must name the columns file and caption."
            )
        )
    return file, [text for text in texts if text]


def _distinct(path: Path, texts: list[str]) -> tuple[str, ...]:
    longest = max((len(text) for text in texts), default=0)
    if longest > MAX_LENGTH:
        raise InvalidInputError(
            f"{path.name} holds a caption of {longest} characters; {MAX_LENGTH} are the limit, and "
            "about 500 are used."
        )
    return tuple(dict.fromkeys(texts))
