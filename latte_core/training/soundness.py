"""Whether a run can be gone on with, and what is said when it cannot.

What is asked before a checkpoint is written is asked here alone: one that holds NaN or Inf, or
whose weights predict noise worse than anything that learns, would take the place of a good one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from ..checkpoint.reading.finite import is_finite
from ..errors import NonFiniteError

# Squared noise error at which nothing is left of a model: one that always answers 0 has an error of
# 1, and the numbers of such weights soon leave the range of float32.
RUINED = 1e4
SQUARED = "squared error of the noise"
MEASURED = ("loss", SQUARED, "variational term", "norm of the gradient")  # of an update, in order


def first_not_finite(state: object) -> str | None:
    """Return the name of the first tensor or number in a state that is NaN or Inf; None without."""
    return next((name for name, value in values_in(state) if not is_sound(value)), None)


def values_in(state: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield what a state of dicts, lists and tuples holds, with the way to it."""
    if isinstance(state, Mapping):
        entries = cast("Iterator[tuple[object, object]]", state.items())
    elif isinstance(state, (list, tuple)):
        entries = cast("Iterator[tuple[object, object]]", enumerate(cast("list[object]", state)))
    else:
        yield name, state
        return
    for key, value in entries:
        yield from values_in(value, f"{name}.{key}" if name else str(key))


def is_sound(value: object) -> bool:
    """Return whether a value of a state is finite, if it is a number at all."""
    if isinstance(value, Tensor):
        return is_finite(value)
    return not isinstance(value, float) or math.isfinite(value)


def wrong_among(values: Mapping[str, float]) -> str | None:
    """Return which of named numbers is not finite, in words; None if all are."""
    found = ((name, value) for name, value in values.items() if not math.isfinite(value))
    return next((f"the {name} is {value}" for name, value in found), None)


def ruin(losses: Mapping[str, float]) -> str | None:
    """Return why weights with these losses are not worth keeping, in words; None if they are.

    Only the squared error has a limit beside being finite: the others depend on weights that the
    config chooses.
    """
    squared = losses[SQUARED]
    is_ruined = math.isfinite(squared) and squared > RUINED
    said = f"the {SQUARED} is {squared:.3g}, where guessing nothing has 1"
    return said if is_ruined else wrong_among(losses)


def check_updates(rows: Sequence[Sequence[float]], first: int, steps: Sequence[int]) -> None:
    """Refuse updates that were made with numbers that are not finite.

    Args:
        rows: of each update, what `MEASURED` names; what comes last may be left out.
        first: number of the first update.
        steps: of the checkpoints that there are.

    Raises:
        NonFiniteError: naming the first update that has one.
    """
    for number, row in enumerate(rows, start=first):
        wrong = wrong_among(dict(zip(MEASURED, row, strict=False)))
        if wrong is not None:
            raise broken(number, wrong, steps)


def broken(step: int, what: str, steps: Sequence[int]) -> NonFiniteError:
    """Return the error for a run that broke down, with advice that the run accepts.

    Args:
        step: update that broke it.
        what: is wrong with it.
        steps: of the checkpoints that there are.
    """
    kept, place = "There is no checkpoint yet", "begins anew"
    if steps:
        kept = f"The last finite checkpoint, of update {steps[-1]}, stays as it is"
        place = f"goes on from update {steps[-1]}"
    return NonFiniteError(
        f"The training broke down at update {step}: {what}. Nothing of that was saved. {kept}. "
        "Lower learning_rate, make warm_up longer, set clip_norm with clip_from 0, or use "
        "precision float32, and start again with the same output: the run then "
        f"{place} with these settings."
    )


def require_finite(state: Mapping[str, Any], what: str) -> None:
    """Refuse to write a state that is not finite; for training loops without a run's folder.

    Raises:
        NonFiniteError: naming the value.
    """
    name = first_not_finite(state)
    if name is not None:
        raise NonFiniteError(
            f"{what} was not written: {name} is not finite, so the training broke down. The older "
            "file stays as it is. Lower the learning rate and start again."
        )
