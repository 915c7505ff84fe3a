"""Seeds to noise: drawn in float32 on the CPU, from generators made for one run.

The global random state is never read or changed. Two draw orders exist (docs/model.md 7.2):
`comfyui` draws each video as (F, 4, h, w), which is what KSampler draws for a batch of frames;
`reference` draws (B, 4, F, h, w), as the authors' pipeline does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from ..checks import MAX_SEED, check_seed
from ..errors import InvalidInputError

NoiseOrder = Literal["comfyui", "reference"]
Size = tuple[int, int, int, int, int]


def check_noise_order(value: str) -> NoiseOrder:
    """Return `value` if it names a draw order.

    Raises:
        InvalidInputError: otherwise.
    """
    for order in get_args(NoiseOrder):
        if value == order:
            return order
    raise InvalidInputError(
        f"noise_order is {value!r}, but it must be 'comfyui' (what KSampler draws for this seed) "
        "or 'reference' (what the authors' pipeline draws)."
    )


def generator_for(seed: int) -> Generator:
    """Return a new CPU generator for a seed of 0 to 2^64 - 1.

    Raises:
        InvalidInputError: for any other seed.
    """
    return Generator("cpu").manual_seed(check_seed(seed))


def draw(size: Sequence[int], generator: Generator) -> Tensor:
    """Draw float32 on the CPU whatever torch's defaults are: float64 is another stream (R43)."""
    return torch.randn(tuple(size), generator=generator, dtype=torch.float32, device="cpu")


def check_seeds(seeds: int | Sequence[int], batch: int) -> list[int]:
    """Return `seeds` as a list: one for all videos, or one per video.

    Raises:
        InvalidInputError: for a seed out of range or another count.
    """
    listed = [seeds] if isinstance(seeds, int) else list(seeds)
    if len(listed) not in (1, batch):
        raise InvalidInputError(
            f"{len(listed)} seeds were given for {batch} videos. "
            "Give one seed for all of them, or one for each."
        )
    return [check_seed(seed) for seed in listed]


def make_noise(
    shape: Sequence[int], seeds: int | Sequence[int], noise_order: str = "comfyui"
) -> Tensor:
    """Draw the start noise of a batch of videos.

    Args:
        shape: (B, 4, F, h, w).
        seeds: one per video, or a single one whose stream continues from video to video, so that
            the first video is the same for every batch size.
        noise_order: `comfyui` or `reference`.

    Returns:
        (B, 4, F, h, w) float32 on the CPU, unit variance.

    Raises:
        InvalidInputError: for a seed out of range, a wrong number of seeds, or an unknown order.
    """
    batch, channels, frames, height, width = shape
    order = check_noise_order(noise_order)
    listed = check_seeds(seeds, batch)
    generators = [generator_for(seed) for seed in listed]
    size = (channels, frames) if order == "reference" else (frames, channels)
    drawn = torch.stack(
        [
            draw((*size, height, width), generators[index % len(generators)])
            for index in range(batch)
        ]
    )
    return drawn if order == "reference" else drawn.transpose(1, 2).contiguous()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNoise:
    """The noise that stochastic samplers add at every step, one generator per video.

    Args:
        generators: one per video of the batch.
        frames_first: draw each video as (F, 4, h, w) instead of (4, F, h, w).
    """

    generators: tuple[Generator, ...]
    frames_first: bool

    def arrange(self, latents: Tensor) -> Tensor:
        """Swap channels and frames when the draw order asks for it; its own inverse."""
        return latents.transpose(1, 2) if self.frames_first else latents

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Return (B, 4, F, h, w) float32 noise for one step."""
        batch, channels, frames, height, width = shape
        size = (frames, channels) if self.frames_first else (channels, frames)
        if batch != len(self.generators):
            raise InvalidInputError(
                f"Step noise for {len(self.generators)} videos was prepared, "
                f"but the latents hold {batch}. Prepare one per video."
            )
        drawn = [draw((1, *size, height, width), generator) for generator in self.generators]
        return self.arrange(torch.cat(drawn))


def make_step_noise(
    shape: Sequence[int],
    seeds: int | Sequence[int],
    noise_order: str = "comfyui",
    *,
    start_was_drawn: bool = True,
) -> StepNoise:
    """Prepare the per-step noise that belongs to `make_noise` with the same arguments.

    In `comfyui` order video number i of a seed uses a stream of its own, seeded with seed + 1 + i:
    for one video that is what KSampler's ancestral samplers use on the CPU. In `reference` order
    the first video of a seed continues the stream its start noise came from, as the authors'
    pipeline does. Either way a video gets the same noise in every batch size.

    Args:
        shape: (B, 4, F, h, w).
        seeds: as for `make_noise`.
        noise_order: as for `make_noise`.
        start_was_drawn: False when start latents were supplied, so nothing was drawn from the seed.

    Raises:
        InvalidInputError: as for `make_noise`.
    """
    order = check_noise_order(noise_order)
    listed = check_seeds(seeds, shape[0])
    pairs = (
        [(listed[0], index) for index in range(shape[0])]
        if len(listed) == 1
        else [(seed, 0) for seed in listed]
    )
    skipped = shape[1:] if start_was_drawn else None
    generators = [
        _continued(seed, skipped)
        if order == "reference" and index == 0
        else generator_for((seed + 1 + index) % (MAX_SEED + 1))
        for seed, index in pairs
    ]
    return StepNoise(generators=tuple(generators), frames_first=order == "comfyui")


def _continued(seed: int, skipped: Sequence[int] | None) -> Generator:
    generator = generator_for(seed)
    if skipped is not None:
        draw((1, *skipped), generator)
    return generator
