"""The videos of a `sample` run: which they are, and what makes them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...checks import (
    MAX_BATCH,
    MAX_FRAMES,
    MAX_SEED,
    check_eta,
    check_guidance,
    check_integer,
    check_seed,
    check_size,
)
from ...errors import InvalidInputError
from ...sampling.names import OWN_SAMPLERS, SAMPLERS, check_steps, resolve_sampler
from ...types import TRAIN_STEPS, StepCallback

if TYPE_CHECKING:
    from torch import Tensor

    from .settings import Settings

MAX_VIDEOS = 1_000_000
FRAMES = "frames"  # in place of a file ending
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One video.

    Args:
        index: its place in the run, from 0.
        item: what to show: a prompt, a class as it was typed, or None for no class.
        seed: of its noise.
    """

    index: int
    item: str | None
    seed: int


class Maker(Protocol):
    """Makes videos with one model and one set of settings."""

    @property
    def items(self) -> Sequence[str | None]:
        """What the videos of the run show in turn."""
        ...

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of every video."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second."""
        ...

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decides the videos of the run, but for `describe`."""
        ...

    def describe(self, job: Job) -> Mapping[str, Any]:
        """Return what is special about one video: what it shows, and its seed."""
        ...

    def title(self, job: Job) -> str:
        """Return what one video shows, for a person."""
        ...

    @property
    def batch(self) -> int:
        """How many videos are made together."""
        ...

    def make(self, job: Job, callback: StepCallback | None) -> Tensor:
        """Return frames (F, H, W, 3) float32 in [0, 1]."""
        ...

    def make_together(self, jobs: Sequence[Job], callback: StepCallback | None) -> Tensor:
        """Return the frames of several videos, (N, F, H, W, 3)."""
        ...


def check_numbers(given: argparse.Namespace | Settings) -> None:
    """Refuse numbers that fit no model, before one is imported and read.

    Raises:
        InvalidInputError: for the first of them.
    """
    if given.frames is not None:
        check_integer("frames", given.frames, 1, MAX_FRAMES)
    for name, side in (("height", given.height), ("width", given.width)):
        if side is not None:
            check_size(name, side)
    if given.seed is not None:
        check_seed(given.seed)
    if given.num is not None:
        check_integer("--num", given.num, 1, MAX_VIDEOS)
    if given.batch is not None:
        check_integer("--batch", given.batch, 1, MAX_BATCH)
    if given.guidance is not None:
        check_guidance(given.guidance)
    if given.eta is not None:
        check_eta(given.eta)


def check_text_run(settings: Settings) -> None:
    """Refuse a sampler and steps that no text-to-video model can follow; prompts say it is one.

    Raises:
        InvalidInputError: for the first of them.
    """
    if not settings.prompts:
        return
    sampler = None if settings.sampler is None else resolve_sampler(settings.sampler)
    if settings.steps is not None:
        count = step_count(settings.steps)
        if sampler in (None, *OWN_SAMPLERS):
            check_integer("steps", count, 1, TRAIN_STEPS)
        else:
            check_steps(dict(SAMPLERS)[sampler], count)


def step_count(steps: str) -> int:
    """Return a number of steps from its text.

    Raises:
        InvalidInputError: for another step string, which only class models follow.
    """
    try:
        return int(steps)
    except ValueError as error:
        raise InvalidInputError(
            f"--steps is {steps!r}, but a text-to-video model takes a whole number, such as 50."
        ) from error


def batch_entry(batch: int | None) -> Mapping[str, Any]:
    """Return what a recipe says of it: nothing of videos that are made one by one."""
    return {} if batch in (None, 1) else {"batch": batch}


def in_batches(items: Sequence[T], batch: int) -> list[Sequence[T]]:
    """Return the items in order, so many at a time."""
    return [items[at : at + batch] for at in range(0, len(items), batch)]


def plan(items: Sequence[str | None], num: int | None, seed: int) -> list[Job]:
    """Return the videos of a run: the items in turn, the seed rising with each round.

    Args:
        items: what to show, at least one.
        num: videos in all; None makes one of each item.
        seed: of the first round.

    Raises:
        InvalidInputError: for a number or seed out of range.
    """
    check_seed(seed)
    count = len(items) if num is None else check_integer("--num", num, 1, MAX_VIDEOS)
    return [
        Job(
            index=index,
            item=items[index % len(items)],
            seed=(seed + index // len(items)) % (MAX_SEED + 1),
        )
        for index in range(count)
    ]
