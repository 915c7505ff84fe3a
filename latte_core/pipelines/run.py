"""What every pipeline does around its sampling: results, noise and progress of several videos."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from ..acceleration.run import CacheReport
from ..checks import MAX_BATCH, check_integer
from ..devices import is_out_of_memory
from ..errors import InvalidInputError
from ..sampling import StepNoise, make_noise, make_step_noise
from ..types import StepCallback, StepInfo, VideoShape

OUTPUTS = ("frames", "latents")

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineResult:
    """What a pipeline made.

    Args:
        latents: (N, 4, F, h, w) float32.
        frames: (F, H, W, 3) float32 in [0, 1], (N, F, H, W, 3) for a list of prompts, labels or
            seeds, or None if only latents were asked for.
        class_labels: the class of each video, for class-conditional models.
        cache: what each run computed and skipped, if it had a cache: one of each video, or one of
            all where they were made in one batch.
    """

    latents: Tensor
    frames: Tensor | None
    class_labels: tuple[int, ...] | None = None
    cache: tuple[CacheReport, ...] = ()


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InvalidInputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InvalidInputError(
            f"{name} is {value!r}, but it must be {' or '.join(map(repr, choices))}."
        )


def check_batch(batch_size: int) -> int:
    """Return how many videos are made together.

    Raises:
        InvalidInputError: for a number out of range.
    """
    return check_integer("batch_size", batch_size, 1, MAX_BATCH)


@contextmanager
def naming_size(shape: VideoShape) -> Generator[None]:
    """Say what was sampled if memory runs out; the error passes through as it is."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            logger.error("Out of memory while sampling %s.", shape)
        raise


def noise_of_videos(
    size: tuple[int, int, int, int, int],
    seed: int | Sequence[int],
    noise_order: str,
    latents: Tensor | None,
) -> tuple[Tensor, list[StepNoise]]:
    """Return start noise, and the step noise of each video on its own."""
    noise = make_noise(size, seed, noise_order) if latents is None else latents
    steps = make_step_noise(size, seed, noise_order, start_was_drawn=latents is None)
    return noise, [replace(steps, generators=(one,)) for one in steps.generators]


def slices(count: int, batch_size: int) -> list[slice]:
    """Return which of `count` videos are made together."""
    return [slice(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]


def join_noise(noise: Sequence[StepNoise]) -> StepNoise:
    """Return the step noise of several videos as that of one batch."""
    return replace(noise[0], generators=tuple(one for each in noise for one in each.generators))


def listeners(callback: StepCallback | None, count: int) -> list[StepCallback | None]:
    """Return one callback per video that reports progress over all of them."""
    return [
        None if callback is None else _Listener(callback, index, count) for index in range(count)
    ]


@dataclass(frozen=True, slots=True)
class _Listener:
    """Passes steps of video number `index` of `count` on, numbered through."""

    callback: StepCallback
    index: int
    count: int

    def __call__(self, info: StepInfo) -> None:
        step = self.index * info.num_steps + info.step
        self.callback(replace(info, step=step, num_steps=self.count * info.num_steps))
