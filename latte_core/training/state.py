"""Save and load the state of a training run so that a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from ..checkpoint.reading.archive import read_archive, verify_checksums
from ..checkpoint.reading.reader import TORCH_ERRORS
from ..checkpoint.reading.records import IncompleteFileError
from ..checkpoint.reading.sniff import open_weights
from ..checkpoint.writing.writer import unwritable
from ..checks import is_whole
from ..devices import is_out_of_memory
from ..errors import CorruptCheckpointError, UnsafeCheckpointError
from ..files import atomic_write
from .soundness import first_not_finite, require_finite, values_in

RUN_KEYS = ("model", "ema", "optimizer", "workers", "step")  # of the state of a run
MAX_STEP = 2**31


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; an older state is replaced only when this one is whole.

    Raises:
        CheckpointError: if the disk is full or the place cannot be written; no folder is left.
    """
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial, partial.open("wb") as handle:
            save_into(handle, state)
    except OSError as error:
        failed = unwritable(path, num_bytes_of(state), error)
        if is_new:
            with suppress(OSError):
                path.parent.rmdir()
        raise failed from error


def save_into(handle: BinaryIO, state: dict[str, Any]) -> None:
    """Write a state; what the file system says of it comes out as it is, which torch prevents."""
    watched = Watched(handle)
    try:
        torch.save(state, cast(Any, watched))
    except RuntimeError:
        if watched.error is not None:
            raise watched.error from None
        raise


class Watched:
    """A file that remembers the error of a write."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Write bytes."""
        try:
            return self.handle.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Give what was written to the system."""
        self.handle.flush()


def num_bytes_of(state: object) -> int:
    """Return the bytes of the tensors in a state."""
    tensors = (value for _, value in values_in(state) if isinstance(value, Tensor))
    return sum(one.numel() * one.element_size() for one in tensors)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; nothing but tensors and plain values is accepted.

    The checksum of every part is verified, so that a changed byte is found.

    Raises:
        CheckpointError: if the file cannot be opened.
        CorruptCheckpointError: if it is damaged, or holds a value that is not finite.
    """
    with open_weights(path) as handle:
        try:
            verify_checksums(path, handle, read_archive(path, handle))
        except IncompleteFileError as error:
            raise damaged(path, "it is cut short") from error
        except (CorruptCheckpointError, UnsafeCheckpointError) as error:
            raise damaged(path, "bytes of it were changed") from error
        handle.seek(0)
        try:
            loaded: object = torch.load(handle, map_location="cpu", weights_only=True)
        except TORCH_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise damaged(path, "it is not what a training writes") from error
    if not isinstance(loaded, dict):
        raise damaged(path, f"it holds a {type(loaded).__name__} and no table")
    state = cast("dict[str, Any]", loaded)
    name = first_not_finite(state)
    if name is not None:
        raise damaged(path, f"{name} is not finite")
    return state


def damaged(path: Path, what: str) -> CorruptCheckpointError:
    """Return the error for a state that cannot be gone on from."""
    place = f"{path.name} in {path.parent.name}"
    return CorruptCheckpointError(f"{place} cannot be gone on from: {what}.")


@contextmanager
def take_up(
    path: Path,
    state: Mapping[str, Any],
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> Generator[None]:
    """Check the state of a run before its parts are taken up, and say which file does not fit.

    Args:
        path: where the state was read.
        state: of the run.
        trained: what the run trains, by name; states hold it whole.
        optimizer: of those.

    Raises:
        CorruptCheckpointError: if a part is missing, or is of another model.
    """
    missing = [key for key in RUN_KEYS if key not in state]
    if missing:
        raise damaged(path, f"it lacks {', '.join(missing)}")
    if not is_whole(state["step"], 0, MAX_STEP):
        raise damaged(path, f"its step is {state['step']!r:.40} and no number of updates")
    for part in ("model", "ema"):
        held = table(state[part])
        other = [name for name, value in trained.items() if shape_of(held.get(name)) != value.shape]
        other += [name for name in held if name not in trained]
        if other:
            raise damaged(path, f"its {part} has other weights than this run, such as {other[0]}")
    check_optimizer(path, table(state["optimizer"]), optimizer)
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise damaged(path, "its optimizer is of another model") from error


def check_optimizer(
    path: Path, state: Mapping[Any, object], optimizer: torch.optim.Optimizer
) -> None:
    """Refuse a state of AdamW that was not made with these parameters.

    Raises:
        CorruptCheckpointError: naming the file.
    """
    groups: object = state.get("param_groups")
    found = [set(table(one)) for one in cast("list[object]", groups)] if is_list(groups) else []
    wanted = [set(table(one)) for one in optimizer.state_dict()["param_groups"]]
    shapes = [value.shape for group in optimizer.param_groups for value in group["params"]]
    moments = table(state.get("state"))
    is_same = all(
        number in range(len(shapes)) and shape_of(table(entry).get(name)) == shapes[number]
        for number, entry in moments.items()
        for name in ("exp_avg", "exp_avg_sq")
    )
    if found != wanted or not is_same:
        raise damaged(path, "its optimizer is of another model")


def is_list(value: object) -> bool:
    """Return whether a value of a state is a list."""
    return isinstance(value, list)


def table(value: object) -> dict[Any, object]:
    """Return a table of a state, an empty one for anything else."""
    return cast("dict[Any, object]", value) if isinstance(value, dict) else {}


def shape_of(value: object) -> torch.Size | None:
    """Return the shape of a tensor, None for anything else."""
    return value.shape if isinstance(value, Tensor) else None


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, optimizer state and the next step.

    Raises:
        NonFiniteError: if one of them is not finite; an older state stays.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    require_finite(state, path.name)
    write_state(path, state)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a saved state if there is one and return the step to go on from, else 0."""
    if not path.exists():
        return 0
    state = read_state(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
