"""Class labels as people write them: a number, a name in any spelling."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from ..errors import InvalidInputError
from .ucf101 import UCF101_CLASSES

SUGGESTIONS = 3


def known_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of a model that brings none: UCF101's for 101 classes, else nothing."""
    return UCF101_CLASSES if num_classes == len(UCF101_CLASSES) else ()


def find_class(label: str | int, names: Sequence[str], num_classes: int) -> int:
    """Return the number of a class, given that number or the class's name.

    Letter case, spaces, underscores and hyphens of names do not matter.

    Args:
        label: 0 .. num_classes - 1, as a number or text; num_classes itself, the null class, means
            any class.
        names: names in the order of labels; may be empty.
        num_classes: classes of the model without the null class.

    Raises:
        InvalidInputError: for a number out of range, or a name the model does not have; the nearest
            names are suggested.
    """
    if isinstance(label, str) and not _is_number(label):
        return _find_name(label, names, num_classes)
    if isinstance(label, bool) or not 0 <= (number := int(label)) <= num_classes:
        raise InvalidInputError(
            f"The class {label} is out of range: this model has the classes 0 to "
            f"{num_classes - 1}, and {num_classes} means any class."
        )
    return number


def _find_name(name: str, names: Sequence[str], num_classes: int) -> int:
    numbers = {_plain(known): number for number, known in enumerate(names)}
    wanted = _plain(name)
    if wanted in numbers:
        return numbers[wanted]
    if not names:
        raise InvalidInputError(
            f"There is no class {name!r}: this model has {num_classes} classes without names. "
            f"Give a number from 0 to {num_classes - 1}."
        )
    found = get_close_matches(wanted, numbers, n=SUGGESTIONS, cutoff=0.5)
    near = " or ".join(f'"{names[numbers[one]]}"' for one in found)
    raise InvalidInputError(
        f"There is no class {name!r}. "
        + (f"Did you mean {near}? " if near else "")
        + f"This model has {num_classes} classes, from {names[0]!r} to {names[-1]!r}."
    )


def _is_number(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-\t")
