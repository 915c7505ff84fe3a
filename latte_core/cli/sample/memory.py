"""`--memory`, `--embedding-cache` and `--decode-chunk` of `sample`, and what is said of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...checks import MAX_FRAMES, check_integer
from ...memory import AUTO, MEMORY_CHOICES
from ...text.names import IN_MEMORY, OFF, ON_DISK

if TYPE_CHECKING:
    from ...pipelines.classes.pipeline import ClassPipeline
    from ...pipelines.text.pipeline import Pipeline

ON = "on"


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about memory."""
    group = parser.add_argument_group("how much memory to take")
    group.add_argument(
        "--memory",
        choices=MEMORY_CHOICES,
        help="gigabytes of the card; less keeps fewer parts on it at a time (default: auto, by "
        "what is free; everything stays in memory on the CPU)",
    )
    group.add_argument(
        "--embedding-cache",
        metavar="WHERE",
        help="keep encoded prompts: on (in the user's cache folder, or in LATTE_CACHE_DIR), a "
        "folder, or off (default: for this command alone); the text encoder is not even loaded "
        "for prompts that are known",
    )
    group.add_argument(
        "--decode-chunk",
        type=int,
        metavar="FRAMES",
        help="frames that the VAE decodes together: 14 is the authors' way, the length of the clip "
        "decodes it whole (default: up to 16 frames whole; longer clips 14 at a time, with 4 more "
        "on each side for a temporal VAE to look at)",
    )


def checked_chunk(chunk: int | None) -> int | None:
    """Return what was given for `--decode-chunk`.

    Raises:
        InvalidInputError: if it is out of range.
    """
    return None if chunk is None else check_integer("--decode-chunk", chunk, 1, MAX_FRAMES)


def embedding_choice(given: str | None) -> str:
    """Return what `Pipeline.from_pretrained` takes for `--embedding-cache`."""
    return {None: IN_MEMORY, ON: ON_DISK, OFF: OFF}.get(given, given or IN_MEMORY)


def memory_entry(memory: str | None) -> Mapping[str, Any]:
    """Return what a recipe says of it: nothing unless a preset was asked for by name."""
    return {} if memory in (None, AUTO) else {"memory": memory}


def decode_entry(chunk: int | None) -> Mapping[str, Any]:
    """Return what a recipe says of it: nothing unless another number was asked for."""
    return {} if chunk is None else {"decode_chunk": chunk}


def tell_memory(pipeline: Pipeline | ClassPipeline, memory: str | None) -> None:
    """Print which preset is used and why, unless nobody asked and everything fits."""
    choice = pipeline.parts.stages.choice
    if memory is not None or not choice.plan.keeps_all:
        print(choice.sentence())
