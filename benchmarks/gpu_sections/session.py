"""One run of `gpu.py`: what is asked for, what was found, and how much time is left."""

from __future__ import annotations

import gc
import json
import logging
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from measuring.card import Card

from gpu_sections.sizes import Sizes
from gpu_sections.weights import ModelFolder

FIGURES = (
    "tests",
    "failed_tests",
    "exact_speedup",
    "exact_compiled_speedup",
    "eight_bit_speedup",
    "stacked_speedup",
    "stacked_seconds",
    "stacked_psnr",
    "peak_gb",
)
LAST_LINES = 30  # of a traceback that is kept
MOST_OF_A_LINE = 600
T = TypeVar("T")
Found = dict[str, Any]


class TimeUp(BaseException):
    """The time of a section is over; nothing below is to take it for an error of its own."""


@dataclass(kw_only=True)
class Session:
    """What the sections share.

    Args:
        card: what is measured.
        sizes: of the models.
        output: the JSON file; other files are written beside it.
        deadline: seconds that the whole run may take.
        models: a folder of random weights, made when first asked for.
        missing: packages that are not there.
        started: the clock at the begin.
        record: what was found so far.
    """

    card: Card
    sizes: Sizes
    output: Path
    deadline: float
    models: ModelFolder
    missing: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)
    record: Found = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.record.setdefault("figures", dict.fromkeys(FIGURES))
        self.record.setdefault("left_out", [])
        self.record.setdefault("sections", {})

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - (time.monotonic() - self.started)

    def say(self, sentence: str) -> None:
        """Tell how far it is, with the seconds since the begin."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {sentence}", flush=True)

    def leave_out(self, sentence: str) -> None:
        """Tell, and write down, what is not measured."""
        if sentence not in self.record["left_out"]:
            self.record["left_out"].append(sentence)
            self.say(f"left out: {sentence}")

    def figure(self, name: str, value: Any) -> None:
        """Write down one of the figures that the whole run is for."""
        if name not in self.record["figures"]:
            raise KeyError(f"There is no figure {name!r}; there are {', '.join(FIGURES)}.")
        self.record["figures"][name] = value
        self.say(f"{name}: {value}")
        self.save()

    def save(self) -> None:
        """Write everything so far; whoever stops the run finds a whole file."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.output.with_name(f"{self.output.name}.partial")
        partial.write_text(json.dumps(self.record, indent=1, default=str) + "\n", encoding="utf-8")
        partial.replace(self.output)

    def beside(self, ending: str) -> Path:
        """Return the path of another file of this run."""
        return self.output.with_name(self.output.stem + ending)

    def attempt(self, into: Found, name: str, call: Callable[[], T]) -> T | None:
        """Write what a call returns under a name; its error, if it fails, and go on.

        Returns:
            What the call returned, or None if it failed.
        """
        try:
            made = call()
        except Exception as error:  # noqa: BLE001 -- told, and the rest is measured all the same
            into[name] = failure(error)
            self.say(f"{name}: {into[name]['error']}")
            made = None
        else:
            into[name] = made
        if made is None:
            self.card.free()  # outside of the handler, where the traceback holds what failed
        self.save()
        return made


def failure(error: BaseException) -> Found:
    """Return what there is to say of an error."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    first = next(iter(str(error).strip().splitlines()), "")
    return {"error": f"{type(error).__name__}: {first}", "traceback": lines[-LAST_LINES:]}


@contextmanager
def at_most(seconds: float) -> Generator[None]:
    """Raise TimeUp when a time is over; where there are no alarms, let it go on.

    Args:
        seconds: of the clock.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise TimeUp(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the run.

    Args:
        number: for `--sections`.
        name: what it measures.
        needs: seconds on a fast card; it is skipped where less is left.
        most: seconds after which it is stopped.
        run: measures, and writes into the dictionary it is given.
    """

    number: int
    name: str
    needs: float
    most: float
    run: Callable[[Session, Found], None]


def run_section(session: Session, section: Section) -> None:
    """Run a section as far as it goes; whatever happens in it, the next one can follow."""
    found: Found = {"name": section.name, "state": "running"}
    session.record["sections"][str(section.number)] = found
    left = session.left()
    if left < section.needs * session.sizes.needs_share:
        found["state"] = "skipped"
        session.leave_out(
            f"section {section.number}, {section.name}: it takes about {section.needs:.0f} s and "
            f"{max(left, 0):.0f} s are left. Run --sections {section.number}."
        )
        session.save()
        return
    session.say(f"section {section.number}: {section.name}")
    session.save()
    start, most = time.monotonic(), section.most * session.sizes.patience
    gc.freeze()  # modules that are imported need no look at every collection
    try:
        with noted(found), at_most(min(left, most)):
            section.run(session, found)
        found["state"] = "done"
    except (Exception, TimeUp) as error:  # noqa: BLE001 -- a section must not end the others
        found |= {"state": "failed", **failure(error)}
        session.say(f"section {section.number} ended early: {found['error']}")
    found["seconds"] = round(time.monotonic() - start, 2)
    session.card.limit(None)
    session.card.free()
    session.save()


class Notices(logging.Handler):
    """Keeps what the package says, each sentence once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if record.getMessage() not in self.lines:
            self.lines.append(record.getMessage())


@contextmanager
def heard() -> Generator[Notices]:
    """Keep what the package says meanwhile."""
    notices, logger = Notices(), logging.getLogger("latte")
    logger.addHandler(notices)
    try:
        yield notices
    finally:
        logger.removeHandler(notices)


@contextmanager
def noted(found: Found) -> Generator[None]:
    """Write down warnings and what the package says, where there are any."""
    with warnings.catch_warnings(record=True) as caught, heard() as notices:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            lines = [f"{one.category.__name__}: {one.message}" for one in caught]
            for name, told in (("warnings", lines), ("notices", notices.lines)):
                if told:
                    found[name] = list(dict.fromkeys(line[:MOST_OF_A_LINE] for line in told))
