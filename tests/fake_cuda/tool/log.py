"""What happened between the host and the fake card, and which line of the repository asked."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

TOOL = str(Path(__file__).resolve().parent)
ROOT = str(Path(__file__).resolve().parents[3])
FOLDERS = ("latte_core", "nodes", "benchmarks", "tests")
COUNTER = str(Path("benchmarks", "measuring", "counting.py"))  # which every operator passes through

Direction = Literal["to card", "to host"]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A copy between the host and the card.

    Args:
        direction: where it went.
        num_bytes: how much.
        is_pinned: the host's side is pinned memory; a copy from pageable memory goes through a
            buffer of the driver, and the caller waits for it.
        is_non_blocking: as the caller asked.
        line: of the caller, as `path:number`.
        step: in which it fell; 0 is before the first.
    """

    direction: Direction
    num_bytes: int
    is_pinned: bool
    is_non_blocking: bool
    line: str
    step: int

    @property
    def is_pageable(self) -> bool:
        """Whether it left pageable memory for the card."""
        return self.direction == "to card" and not self.is_pinned


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """A place where the host waited for the card.

    Args:
        operator: which needed a value, or `synchronize`.
        line, step: as in `Copy`.
    """

    operator: str
    line: str
    step: int


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One line of the table of steps."""

    step: int
    pageable_copies: int
    pinned_copies: int
    copies_to_host: int
    read_backs: int
    num_bytes: int


@dataclass
class Log:
    """Copies and read-backs in their order."""

    copies: list[Copy] = field(default_factory=list)
    read_backs: list[ReadBack] = field(default_factory=list)
    step: int = 0

    def copy(
        self, direction: Direction, num_bytes: int, *, is_pinned: bool, is_non_blocking: bool
    ) -> None:
        """Write a copy down."""
        self.copies.append(
            Copy(
                direction=direction,
                num_bytes=num_bytes,
                is_pinned=is_pinned,
                is_non_blocking=is_non_blocking,
                line=caller(),
                step=self.step,
            )
        )

    def read_back(self, operator: str) -> None:
        """Write a read-back down."""
        self.read_backs.append(ReadBack(operator=operator, line=caller(), step=self.step))

    def rows(self) -> list[StepRow]:
        """Return the table: one row for each step that was begun, and for what came before."""
        found: list[StepRow] = []
        for step in range(self.step + 1):
            copies = [one for one in self.copies if one.step == step]
            to_card = Counter(one.is_pinned for one in copies if one.direction == "to card")
            found.append(
                StepRow(
                    step=step,
                    pageable_copies=to_card[False],
                    pinned_copies=to_card[True],
                    copies_to_host=len(copies) - to_card.total(),
                    read_backs=sum(one.step == step for one in self.read_backs),
                    num_bytes=sum(one.num_bytes for one in copies),
                )
            )
        return found

    def text(self) -> str:
        """Return the table and the lines behind it, to be printed or shown by a failed test."""
        lines = ["step  pageable  pinned  to host  read-backs       bytes"]
        lines += [
            f"{row.step:4}{row.pageable_copies:10}{row.pinned_copies:8}{row.copies_to_host:9}"
            f"{row.read_backs:12}{row.num_bytes:12}"
            for row in self.rows()
        ]
        asked = Counter(
            f"{one.line}  {one.direction}, {'pinned' if one.is_pinned else 'pageable'}"
            for one in self.copies
        )
        asked.update(f"{one.line}  read-back by {one.operator}" for one in self.read_backs)
        return "\n".join([*lines, *(f"{count:6} x {line}" for line, count in asked.most_common())])


def caller() -> str:
    """Return the innermost line of the repository that is not of this tool, as `path:number`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        is_ours = path.startswith(ROOT) and not path.startswith(TOOL)
        if is_ours and not path.endswith(COUNTER):
            inside = Path(path).relative_to(ROOT)
            if inside.parts[0] in FOLDERS:
                return f"{inside.as_posix()}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside the repository"
