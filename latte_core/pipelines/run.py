"""What every pipeline does around its sampling: checks, sizes, noise, progress and results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..acceleration.run import CacheReport
from ..checks import MAX_BATCH, MAX_FRAMES, check_integer
from ..devices import is_out_of_memory
from ..errors import IncompatibleInputsError, InvalidInputError
from ..sampling import StepNoise, make_noise, make_step_noise
from ..types import PIXELS_PER_CELL, StepCallback, StepInfo, VideoShape

OUTPUTS = ("frames", "latents")
Made = tuple[Tensor, CacheReport | None]
"""Latents of a batch, and what its cache did, if it had one."""

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


def check_call(output: str, batch_size: int, decode_chunk: int | None) -> None:
    """Check the arguments that calls of both pipelines have.

    Raises:
        InvalidInputError: for another output, or a number out of range.
    """
    check_choice("output", output, OUTPUTS)
    check_integer("batch_size", batch_size, 1, MAX_BATCH)
    if decode_chunk is not None:
        check_integer("decode_chunk", decode_chunk, 1, MAX_FRAMES)


def shape_to_make(
    count: int,
    given: tuple[int | None, int | None, int | None],
    usual: tuple[int, int, int],
    latents: Tensor | None,
) -> VideoShape:
    """Return the size to make; given latents decide what was left open, and must fit.

    Args:
        count: videos.
        given: frames, height and width that were asked for.
        usual: those to make where neither arguments nor latents say it.
        latents: start noise, or None.

    Raises:
        InvalidInputError: for a size that cannot be made.
        IncompatibleInputsError: for latents of another size.
    """
    if latents is not None and latents.ndim == 5:
        frames, rows, columns = latents.shape[2:]
        usual = (frames, rows * PIXELS_PER_CELL, columns * PIXELS_PER_CELL)
    num_frames, height, width = (
        other if one is None else one for one, other in zip(given, usual, strict=True)
    )
    shape = VideoShape(batch=count, num_frames=num_frames, height=height, width=width)
    if latents is not None and tuple(latents.shape) != shape.latent_size():
        raise IncompatibleInputsError(
            f"The given latents have shape {tuple(latents.shape)}, but {count} videos of "
            f"{num_frames} frames at {height} x {width} pixels need {shape.latent_size()}. "
            "Change num_frames, height and width, or the latents."
        )
    return shape


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


def result_of(
    made: Sequence[Made],
    decode: Callable[[Tensor], Tensor] | None,
    *,
    is_list: bool,
    class_labels: tuple[int, ...] | None = None,
) -> PipelineResult:
    """Return what a call of a pipeline gives back.

    Args:
        made: by the batches of the call.
        decode: turns latents into frames; None leaves them out.
        is_list: whether frames of a single video have an axis for several in front, too.
        class_labels: the class of each video.
    """
    latents = torch.cat([one for one, _ in made])
    frames = None if decode is None else decode(latents)
    return PipelineResult(
        latents=latents,
        frames=frames if frames is None or is_list else frames[0],
        class_labels=class_labels,
        cache=tuple(report for _, report in made if report is not None),
    )


@dataclass(frozen=True, slots=True)
class _Listener:
    """Passes steps of video number `index` of `count` on, numbered through."""

    callback: StepCallback
    index: int
    count: int

    def __call__(self, info: StepInfo) -> None:
        step = self.index * info.num_steps + info.step
        self.callback(replace(info, step=step, num_steps=self.count * info.num_steps))
