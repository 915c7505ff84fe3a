"""The folder of a training run: what it writes, what others read, and how it is told to stop.

config.json           the settings
status.json           where the run is; rewritten whole, so it is never read half
log.jsonl             one line of numbers for each report
changes.jsonl         settings that were changed when the run was gone on with, and at which update
loss.png              the losses so far
samples/              pictures and videos made as it goes
checkpoints/step-N/   everything a resumed run needs; the newest few
result/               the trained weights, in the layout that everything here opens
STOP                  made by whoever wants the run to end after the update it is in
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.reading.records import size_text
from ..checkpoint.reading.sniff import reason_of
from ..errors import CheckpointError, CorruptCheckpointError, InvalidInputError
from ..files import atomic_write, read_json
from .run_log import Entry, parse_line
from .state import read_state, write_state

RunState = Literal["preparing", "running", "stopped", "finished", "failed"]
ENDED = ("stopped", "finished", "failed")
STATE_FILE = "state.pt"
STATUS_FILE = "status.json"
STOP_FILE = "STOP"
STEP_FOLDER = re.compile(r"step-(\d{8})")

logger = logging.getLogger("latte")


class RunFolder:
    """Reads and writes a run's folder.

    Args:
        path: need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def samples(self) -> Path:
        """Where samples go."""
        return self.path / "samples"

    @property
    def result(self) -> Path:
        """Where the trained weights go."""
        return self.path / "result"

    @property
    def loss_picture(self) -> Path:
        """The plot of the losses."""
        return self.path / "loss.png"

    @property
    def log_file(self) -> Path:
        """The numbers of all reports."""
        return self.path / "log.jsonl"

    @property
    def changes_file(self) -> Path:
        """The settings that were changed on the way."""
        return self.path / "changes.jsonl"

    def open(self, config: Mapping[str, Any], changeable: frozenset[str]) -> None:
        """Make the folder, or check that the run in it has the same settings.

        Args:
            config: settings of this run.
            changeable: keys that may differ when a run is gone on with.

        Raises:
            InvalidInputError: naming the settings that differ.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / STOP_FILE).unlink(missing_ok=True)
        written = self.path / "config.json"
        steps = self.steps()
        if written.is_file() and steps:
            before = read_json(written)
            now = json.loads(json.dumps(config))
            changed = [key for key in now if before.get(key) != now[key]]
            differing = sorted({*changed, *(before.keys() - now.keys())} - changeable)
            if differing:
                shown = ", ".join(f"{k} was {before.get(k)!r}" for k in differing)
                raise InvalidInputError(
                    f"{self.path.name} holds a run with other settings: {shown}. Use those to go "
                    "on with it, or another output folder for a new run."
                )
            self.note_changes({key: (before.get(key), now[key]) for key in changed}, steps[-1])
        self.write_json("config.json", config)

    def note_changes(self, changed: Mapping[str, tuple[Any, Any]], step: int) -> None:
        """Log settings that were changed, and from which update on they count.

        Args:
            changed: what each was and is.
            step: of the checkpoint that is gone on from.
        """
        if not changed:
            return
        told = ", ".join(
            f"{key} {now!r} (was {before!r})" for key, (before, now) in changed.items()
        )
        logger.info("From update %d on with other settings: %s.", step, told)
        with self.changes_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, "changed": changed}) + "\n")

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        with atomic_write(self.path / name) as partial:
            partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def write_status(self, state: RunState, **values: Any) -> None:
        """Say where the run is."""
        now = {"state": state, "pid": os.getpid(), "time": time.time(), **values}
        self.write_json(STATUS_FILE, now)

    def write_failure(self, message: str) -> None:
        """Say that the run failed, on a full disk too; what cannot be said is left out."""
        if not self.path.is_dir():
            return
        try:
            self.write_status("failed", message=message)
        except OSError:
            values = {"state": "failed", "pid": os.getpid(), "time": time.time()}
            text = json.dumps({**values, "message": message}) + "\n"
            with suppress(OSError), (self.path / STATUS_FILE).open("r+b") as handle:
                handle.write(text.encode())  # in the room that the older one takes
                handle.truncate()

    def unwritten(self, error: OSError) -> CheckpointError:
        """Return the error for a run that the file system ended, with what can be done."""
        file = Path(str(error.filename or "log.jsonl")).name
        steps = self.steps()
        place = f"goes on from update {steps[-1]}" if steps else "begins anew"
        said = f"The training in {self.path.name} was ended: {file} cannot be used: "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = size_text(shutil.disk_usage(nearest(self.path)).free)
            said = f"The training in {self.path.name} was ended: the disk is full ({free} free): "
        return CheckpointError(
            f"{said}{reason_of(error)}. Make room or choose another output, and start the same "
            f"command again; it {place}."
        )

    def status(self) -> dict[str, Any]:
        """Return what `write_status` wrote last; empty if there is no run."""
        path = self.path / STATUS_FILE
        return read_json(path) if path.is_file() else {}

    def request_stop(self) -> None:
        """Ask the run to end with a checkpoint after the update it is in."""
        (self.path / STOP_FILE).touch()

    def is_stop_requested(self) -> bool:
        """Return whether somebody asked."""
        return (self.path / STOP_FILE).exists()

    def append_log(self, values: Mapping[str, float]) -> None:
        """Add a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")

    def log(self) -> list[Entry]:
        """Return the whole lines of the log; one that a kill cut off is left out."""
        lines = self.log_file.read_bytes().splitlines() if self.log_file.is_file() else ()
        return [entry for line in lines if (entry := parse_line(line))]

    def trim_log(self, step: int) -> None:
        """Drop lines of updates that a resumed run makes again."""
        kept = [entry for entry in self.log() if entry["step"] <= step]
        if self.log_file.is_file():
            with atomic_write(self.log_file) as partial:
                text = "".join(json.dumps(entry) + "\n" for entry in kept)
                partial.write_text(text, encoding="utf-8")

    def steps(self) -> list[int]:
        """Return the updates that there are whole checkpoints of, oldest first."""
        folder = self.path / "checkpoints"
        found = [
            int(match[1])
            for one in (folder.iterdir() if folder.is_dir() else ())
            if (match := STEP_FOLDER.fullmatch(one.name)) and (one / STATE_FILE).is_file()
        ]
        return sorted(found)

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def save(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Write a checkpoint, then remove all but the newest `keep`."""
        write_state(self.state_file(step), state)
        for old in self.steps()[:-keep]:
            shutil.rmtree(self.checkpoint(old), ignore_errors=True)

    def state_file(self, step: int) -> Path:
        """Return the file of a checkpoint."""
        return self.checkpoint(step) / STATE_FILE

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that there is; None if there is none.

        Raises:
            CheckpointError, CorruptCheckpointError: see `read_state`.
        """
        steps = self.steps()
        return read_state(self.state_file(steps[-1])) if steps else None

    def unusable(self, error: CorruptCheckpointError) -> CorruptCheckpointError:
        """Return the error for a run whose newest checkpoint is damaged, with the way out."""
        steps, damaged = self.steps(), list[str]()
        while steps and not damaged or (steps and not self.is_readable(steps[-1])):
            damaged.append(self.checkpoint(steps.pop()).name)
        place = f"checkpoints in {self.path.name}"
        advice = (
            f"Remove {' and '.join(damaged)} from {place} to go on from update {steps[-1]}."
            if steps
            else f"No checkpoint is whole. Remove {place} to begin anew, or choose another output."
        )
        return CorruptCheckpointError(f"{error} {advice}")

    def is_readable(self, step: int) -> bool:
        """Return whether a checkpoint is whole."""
        try:
            read_state(self.state_file(step))
        except CheckpointError:
            return False
        return True


def nearest(path: Path) -> Path:
    """Return a folder, or the first above it that is there."""
    return next((one for one in (path, *path.absolute().parents) if one.exists()), Path())
