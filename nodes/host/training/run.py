"""Start, watch and stop a training run, which goes on in a process of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....latte_core.errors import InvalidInputError
from ....latte_core.files import read_json
from ....latte_core.training.run_folder import ENDED, RunFolder
from ..base.progress import check_cancelled, progress_bar
from .folders import run_folder
from .process import (
    CONFIG_FILE,
    TrainingProcess,
    find_process,
    is_training,
    last_words,
    read_launch,
)
from .settings import TrainSettings, config_values, differences

logger = logging.getLogger("latte")

STARTING, CUT_OFF = "starting", "cut off"
LOOK_EVERY = 1.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """Where a run is.

    Args:
        folder: of the run.
        state: "starting", "preparing", "running", "stopped", "finished", "failed" or "cut off",
            which is a run that ended without a word because its ComfyUI or computer did.
        is_alive: whether its process is there.
        step, num_steps: updates that it has made, and that it is to make.
        saved: updates in the newest checkpoint; 0 without one.
        loss, seconds_left: None before the first report.
        message: why it failed, or what it prepares.
        sample: its newest sheet of samples.
    """

    folder: Path
    state: str
    is_alive: bool
    step: int
    num_steps: int
    saved: int
    loss: float | None
    seconds_left: float | None
    message: str
    sample: Path | None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def has_result(self) -> bool:
        """Whether it ended as it should, with trained weights."""
        return not self.is_alive and self.state in ("stopped", "finished") and self.step > 0


def look(folder: Path) -> RunView:
    """Return where a run is, from its files and the processes that are there."""
    files = RunFolder(folder)
    status, launch = files.status(), read_launch(folder)
    written = float(status.get("time", 0.0))
    is_alive = (
        find_process(folder) is not None
        or (launch is not None and is_training(launch.pid, launch.time))
        or is_training(status.get("pid"), written)
    )
    state = str(status.get("state", STARTING))
    message = str(status.get("message", ""))
    if launch is not None and written < launch.time:  # what an earlier process wrote
        state, message = STARTING, ""
    if not is_alive and state not in ENDED:
        code = None if launch is None else launch.code
        state, message = ("failed", last_words(folder, code)) if code else (CUT_OFF, "")
    saved = max(files.steps(), default=0)
    return RunView(
        folder=folder,
        state=state,
        is_alive=is_alive,
        step=int(status.get("step", saved)),
        num_steps=int(settings_of(folder).get("num_steps", 0)),
        saved=saved,
        loss=status.get("loss"),
        seconds_left=status.get("seconds_left"),
        message=message,
        sample=max(files.samples.glob("step-*.png"), default=None),
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the training config that a run was started with; empty if it never was."""
    path = folder / CONFIG_FILE
    return read_json(path) if path.is_file() else {}


def start(settings: TrainSettings) -> str:
    """Start a run or go on with it, and return its name; one that goes on is left alone.

    Raises:
        InvalidInputError: for settings that cannot be used, or differ from those that the run was
            begun with; and once for a run that failed, with the reason.
        IncompatibleInputsError: if the model lacks a part.
    """
    from ....latte_core.training.run import CHANGEABLE
    from ....latte_core.training.train_config import TrainConfig

    folder = run_folder(settings.run_name)
    precision, device = machine()
    config = TrainConfig.from_dict(config_values(settings, folder, precision)).to_dict()
    view = look(folder)
    if view.is_alive or view.saved:
        require_same(view, config, frozenset() if view.is_alive else CHANGEABLE)
    if view.is_alive:
        logger.info("Latte: the training %s goes on; it is not started twice.", view.name)
        return view.name
    if view.state == "finished" and view.step >= settings.steps:
        logger.info(
            "Latte: the training %s is finished. For more updates raise steps; for another "
            "training choose another run_name.",
            view.name,
        )
        return view.name
    tell_failure_once(view)
    free_models(view.name)
    RunFolder(folder).open(config, CHANGEABLE)
    TrainingProcess(folder, device).start()
    return view.name


def require_same(view: RunView, config: dict[str, Any], changeable: frozenset[str]) -> None:
    """Refuse to go on with a run under other settings than its own.

    Raises:
        InvalidInputError: naming the widgets that differ, and what they were.
    """
    found = differences(settings_of(view.folder), config, changeable)
    if not found:
        return
    doing = "goes on" if view.is_alive else f"has made {view.saved} updates"
    advice = "or stop it first" if view.is_alive else "to go on with it"
    raise InvalidInputError(
        f"The run {view.name} {doing} with other settings: {', '.join(found)}. Set them back "
        f"{advice}, or choose another run_name for a new run."
    )


def tell_failure_once(view: RunView) -> None:
    """Raise what a failed run says for itself, the first time; it may be tried again then.

    Raises:
        InvalidInputError: with the run's own message.
    """
    launch = read_launch(view.folder)
    if view.state != "failed" or launch is None or launch.is_told:
        return
    replace(launch, is_told=True).write(view.folder)
    place = f"from its checkpoint of update {view.saved}" if view.saved else "from the start"
    raise InvalidInputError(
        f"The training {view.name} failed: {view.message} Queue again to try once more, {place}."
    )


def machine() -> tuple[str, str]:
    """Return the precision that suits ComfyUI's device, and the device."""
    import comfy.model_management as management

    device = management.get_torch_device()
    return "bfloat16" if management.should_use_bf16(device) else "float32", str(device)


def free_models(name: str) -> None:
    """Take ComfyUI's models out of the device's memory, for the training."""
    import comfy.model_management as management

    management.unload_all_models()
    management.soft_empty_cache()
    logger.info(
        "Latte: the training %s starts in a process of its own. ComfyUI's models were unloaded to "
        "make room; whatever is generated meanwhile shares the device's memory with it.",
        name,
    )


def stop(folder: Path, seconds: float) -> RunView:
    """Ask a run to end with a checkpoint, and wait for that, for some seconds at most."""
    view = look(folder)
    if not view.is_alive:
        return view
    process = find_process(folder)
    if process is None:  # started by another ComfyUI, or from the command line
        RunFolder(folder).request_stop()
    else:
        process.end_input()
    return wait(folder, seconds)


def wait(
    folder: Path,
    seconds: float,
    *,
    is_enough: Callable[[RunView], bool] = lambda _: False,
    preview: Callable[[RunView], Any] = lambda _: None,
) -> RunView:
    """Wait until a run has ended, with ComfyUI's progress bar; Cancel ends the waiting alone.

    Args:
        folder: of the run.
        seconds: to wait at most.
        is_enough: ends the waiting earlier.
        preview: makes what the node shows meanwhile, None for nothing new.
    """
    until = time.monotonic() + seconds
    view = look(folder)
    bar = progress_bar(max(view.num_steps, 1))
    while view.is_alive and not is_enough(view) and time.monotonic() < until:
        bar.update_absolute(view.step, max(view.num_steps, 1), preview(view))
        check_cancelled()
        time.sleep(LOOK_EVERY)
        view = look(folder)
    bar.update_absolute(view.step, max(view.num_steps, 1))
    return view


def watch(
    folder: Path, seconds: float, *, to_the_end: bool, preview: Callable[[RunView], Any]
) -> RunView:
    """Wait until a run has ended, or until it has got on.

    Raises:
        InvalidInputError: if it failed meanwhile, with its message.
    """
    first = look(folder)

    def has_progress(view: RunView) -> bool:
        return (view.step, view.loss, view.sample) != (first.step, first.loss, first.sample)

    view = wait(
        folder,
        seconds,
        is_enough=(lambda _: False) if to_the_end else has_progress,
        preview=preview,
    )
    if first.is_alive:
        tell_failure_once(view)
    return view


def sentence(view: RunView) -> str:
    """Say where a run is."""
    done = f"{view.step} of {view.num_steps} updates"
    again = f"Latte Train with the same settings goes on from update {view.saved}."
    loss = "" if view.loss is None else f" The loss is {view.loss:.4g}."
    if view.is_alive and view.state in ENDED:
        return f"{view.name} is ending after {done}."
    texts = {
        STARTING: f"{view.name} is starting; the training program is being loaded.",
        "preparing": f"{view.name} is preparing the data{behind_colon(view.message)}.",
        "running": f"{view.name} has made {done}{time_left(view.seconds_left)}.{loss}",
        "stopped": f"{view.name} is stopped after {done}.{loss} {again}",
        "finished": f"{view.name} is finished: {done}.{loss}",
        "failed": f"{view.name} failed: {view.message}",
        CUT_OFF: f"{view.name} was cut off, as when ComfyUI or the computer is ended. {again}",
    }
    return texts[view.state]


def behind_colon(message: str) -> str:
    """Return a colon and the message, if there is one."""
    return f": {message}" if message else ""


def time_left(seconds: float | None) -> str:
    """Return how long a run will take, in words."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"; about {seconds:.0f} s are left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"; about {minutes} minutes are left"
    return f"; about {minutes / 60:.1f} hours are left"
