"""`--cache` of `sample`: how it is written, what the recipe says of it, and what it did."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...acceleration.help import examples
from ...acceleration.settings import CacheSettings, parse_cache, with_options
from ...errors import InvalidInputError

if TYPE_CHECKING:
    from ...acceleration.run import CacheReport


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a run faster by computing less of it."""
    group = parser.add_argument_group("how to make it faster, at some loss of likeness")
    group.add_argument(
        "--cache",
        metavar="NAME",
        help=f"quality, balanced or fast; {', '.join(examples())}, or a file that `calibrate` "
        "wrote, as FILE or FILE:SPEED-UP",
    )
    group.add_argument(
        "--cache-forecast",
        type=int,
        choices=(0, 1, 2),
        help="continue what is cached as 0 (repeat), 1 (line) or 2 (parabola)",
    )
    group.add_argument(
        "--cache-guidance",
        action="store_true",
        help="also leave out the negative prompt, or the null class, in most of the later steps",
    )


def cache_of(arguments: argparse.Namespace) -> CacheSettings | None:
    """Return what the options say, or None for a run without a cache.

    Raises:
        InvalidInputError: for a cache that there is not, or options without one.
    """
    forecast, guidance = arguments.cache_forecast, arguments.cache_guidance
    if arguments.cache is None:
        if forecast is not None or guidance:
            raise InvalidInputError(
                "--cache-forecast and --cache-guidance say more of a cache, but there is none. "
                "Add --cache balanced, or --cache none to cache guidance alone."
            )
        return None
    return with_options(parse_cache(arguments.cache), forecast=forecast, guidance=guidance)


def cache_entry(settings: CacheSettings | None) -> Mapping[str, Any]:
    """Return what a recipe says of it: nothing if there is none."""
    return {} if settings is None else {"cache": settings.describe()}


class CacheNotes:
    """Prints what caches did; of runs that did the same, the first."""

    def __init__(self) -> None:
        self._last = ""

    def tell(self, reports: Sequence[CacheReport]) -> None:
        """Print one line for each report that says something new."""
        for report in reports:
            sentence = report.sentence()
            if sentence != self._last:
                print(sentence)
            self._last = sentence
