"""The process of a training run: started here, ended by closing its standard input.

Nothing here is kept in a variable of the module. A thread waits for each process, and Python's own
list of threads says which runs go on; `launch.json` in the run's folder says it to a ComfyUI that
was started later.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ....latte_core.files import atomic_write, read_json

PACK = Path(__file__).resolve().parents[3]
CONFIG_FILE = "config.json"
LAUNCH_FILE = "launch.json"
LOG_FILE = "train.log"
THREAD_NAME = "latte-training "
# What `python -m latte_core` does. It is spelled out because the Python of ComfyUI's portable
# Windows package looks for modules neither in the working folder nor in PYTHONPATH.
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('latte_core', run_name='__main__', alter_sys=True)"
)
CLOCK_SLACK = 2.0  # seconds between the clocks of a process and of a file
END_OF_LOG = 4096  # bytes
ERROR_MARK = "Error: "


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How a run was started last.

    Args:
        pid: number of the process.
        time: when, in seconds since 1970.
        code: what it ended with; None while it runs, or when ComfyUI ended first.
        is_told: whether somebody was told that it failed.
    """

    pid: int
    time: float
    code: int | None = None
    is_told: bool = False

    def write(self, folder: Path) -> None:
        """Write it into the run's folder."""
        with atomic_write(folder / LAUNCH_FILE) as partial:
            partial.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_launch(folder: Path) -> Launch | None:
    """Return how a run was started last; None if never from a node."""
    path = folder / LAUNCH_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    return Launch(**{name: values[name] for name in Launch.__dataclass_fields__})


class TrainingProcess(threading.Thread):
    """A running training, and the thread that waits for its end.

    The process has a session of its own: Ctrl-C or a closed terminal reaches ComfyUI alone, and
    the training ends because its standard input does, with a checkpoint.

    Args:
        folder: of the run, with its config.json.
        device: that it computes on.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(name=thread_name(folder), daemon=True)
        self.folder = folder
        with (folder / LOG_FILE).open("ab") as log:
            self.process = subprocess.Popen(
                command_for(folder, device),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PACK,
                env=os.environ | {"PYTHONUTF8": "1"},
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        self.launch = Launch(pid=self.process.pid, time=time.time())
        try:
            self.launch.write(folder)
        except OSError:
            self.process.kill()
            self.process.wait()
            self.end_input()
            raise

    def run(self) -> None:
        """Wait for the process, and note what it ended with."""
        code = self.process.wait()
        self.end_input()
        with suppress(OSError):  # the run's folder may have been removed
            replace(self.launch, code=code).write(self.folder)

    def end_input(self) -> None:
        """Ask the process to end with a checkpoint; it does so even while it is still loading."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()


def command_for(folder: Path, device: str) -> list[str]:
    """Return the command that trains what a run's config.json says."""
    python = [sys.executable, "-X", "utf8", "-u", "-c", START, str(PACK)]
    return [*python, "train", str(folder / CONFIG_FILE), "--device", device, "--stop-with-input"]


def thread_name(folder: Path) -> str:
    """Return the name of the thread that waits for a run."""
    return f"{THREAD_NAME}{folder.resolve()}"


def find_process(folder: Path) -> Any | None:
    """Return the `TrainingProcess` of a run that goes on, started by this ComfyUI.

    Found by name, so that a copy of the pack that was imported again finds it, too.
    """
    wanted = thread_name(folder)
    return next((one for one in threading.enumerate() if one.name == wanted), None)


def is_training(pid: object, seen: float) -> bool:
    """Whether the process that had this number at a time is there, and trains.

    Numbers are used again, so a process that began later, or does something else, is another one.
    """
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return False  # ComfyUI brings it along; without it only its own processes are known
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        is_there = process.status() != psutil.STATUS_ZOMBIE
        is_same = process.create_time() <= seen + CLOCK_SLACK
        return is_there and is_same and any("latte_core" in word for word in process.cmdline())
    except psutil.Error:
        return False


def last_words(folder: Path, code: int) -> str:
    """Return why a process ended: the last error in the run's log, else its code and last line.

    Args:
        folder: of the run.
        code: what the process ended with.
    """
    lines = [line.strip() for line in end_of_log(folder).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(ERROR_MARK)]
    if errors:
        return errors[-1].removeprefix(ERROR_MARK)
    last = f" The last line of {LOG_FILE}: {lines[-1]}" if lines else ""
    return f"its process ended with code {code}.{last}"


def end_of_log(folder: Path) -> str:
    """Return what a run's processes said last."""
    path = folder / LOG_FILE
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - END_OF_LOG))
        return log.read().decode("utf-8", "replace")
