"""What the configs of all models check in the same way, and say in the same words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..checks import is_whole
from ..errors import InvalidInputError

OF_THE_WEIGHTS = " Use the config.json that came with the weights."


def check_whole(
    title: str, name: str, value: object, low: int, high: int, advice: str = OF_THE_WEIGHTS
) -> None:
    """Refuse a setting that is no whole number in [low, high].

    Args:
        title: what the setting is of, such as "The VAE's config".
        name, value: of the setting.
        low, high: its range.
        advice: the sentence that ends the message, with a space before it.

    Raises:
        InvalidInputError: naming the setting and its range.
    """
    if not is_whole(value, low, high):
        raise InvalidInputError(
            f"{title} says {name} = {value!r}, but it must be a whole number from {low} to "
            f"{high}.{advice}"
        )


def used_settings(values: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Return settings from JSON without the keys in `ignored` and those that start with `_`."""
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and key not in ignored
    }


def refuse_unknown(title: str, used: Iterable[str], known: Iterable[str]) -> None:
    """Refuse settings that a config does not have.

    Raises:
        InvalidInputError: naming them.
    """
    unknown = sorted(set(used) - set(known))
    if unknown:
        raise InvalidInputError(
            f"{title} has the unknown key {', '.join(unknown)}. It belongs to another model, or "
            "has a spelling mistake."
        )
