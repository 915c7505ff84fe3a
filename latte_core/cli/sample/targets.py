"""Which files `sample` writes; one that is there is replaced if a person, or an option, says so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import InvalidInputError
from .settings import Settings

YES = ("y", "yes")


def known_targets(settings: Settings, arguments: argparse.Namespace) -> list[Path] | None:
    """Return the files a run will write, None where only the model knows how many there are.

    A folder that is filled needs no look: what is there is kept.
    """
    if arguments.output is None:
        return []
    target = Path(arguments.output)
    if arguments.grid is not None:
        return [target]
    if not settings.prompts:
        return None
    count = len(settings.prompts) if settings.num is None else settings.num
    return targets_of(arguments, count)


def targets_of(arguments: argparse.Namespace, count: int) -> list[Path]:
    """Return the names of the files of `count` videos."""
    target = Path(arguments.output)
    is_one = count == 1 and arguments.prompts is None
    return [target] if is_one else numbered(target, count)


def numbered(target: Path, count: int) -> list[Path]:
    """Return clip-001.mp4, clip-002.mp4 ... for clip.mp4."""
    digits = max(3, len(str(count)))
    return [
        target.with_name(f"{target.stem}-{index + 1:0{digits}d}{target.suffix}")
        for index in range(count)
    ]


def require_free(targets: Sequence[Path], *, overwrite: bool) -> None:
    """Let files that are there be replaced only if that was said, or is answered on a terminal.

    Raises:
        InvalidInputError: otherwise, saying how to go on.
    """
    existing = [target for target in targets if target.is_file()]
    if overwrite or not existing:
        return
    what = existing[0].name
    if len(existing) > 1:
        what = f"{what} and {len(existing) - 1} more of {len(targets)} files"
    verb = "is" if len(existing) == 1 else "are"
    if _is_terminal() and _says_yes(f"{what} {verb} there already. Overwrite? [y/N] "):
        return
    raise InvalidInputError(
        f"{what} {verb} there already and {verb} kept. Give --overwrite to replace what is there, "
        "or another name as --output."
    )


def _is_terminal() -> bool:
    """Whether a person can see a question and answer it."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _says_yes(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in YES
