"""What help says of the caches that can be chosen: names and sentences, from their entries."""

from __future__ import annotations

from collections.abc import Sequence

from . import settings


def examples() -> list[str]:
    """Return how each cache is written, with its number."""
    return [kind.spellings[-1] for kind in settings.CACHES]


def measuring() -> list[str]:
    """Return the names of the caches that decide by a change, which one video may have others not.

    Of several videos in a call, the one that changed most decides for all.
    """
    return [kind.name for kind in settings.CACHES if kind.measures]


def offered() -> list[str]:
    """Return the names of the caches that take the place of the node's dial."""
    return [kind.name for kind in settings.CACHES if kind.is_offered]


def offered_help(dial: str) -> str:
    """Say what they do, those that measure in one sentence.

    Args:
        dial: what the node calls it.
    """
    others = [kind for kind in settings.CACHES if kind.is_offered and not kind.measures]
    sentences = [
        f"{listed(measuring())} decide at each step by how much changed, in the place of {dial}.",
        *(f"{kind.name} {kind.help}." for kind in others),
    ]
    return " ".join(sentences)


def usual_numbers() -> str:
    """Say which numbers the caches that decide at each step are often given."""
    return listed([f"{kind.name} ({kind.usual})" for kind in _numbered()])


def highest_number() -> float:
    """Return the highest number that the node offers."""
    return max(kind.highest for kind in _numbered())


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return at least two words as a list in a sentence."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def _numbered() -> list[settings.StepByStep]:
    return [kind for kind in settings.CACHES if isinstance(kind, settings.StepByStep)]
