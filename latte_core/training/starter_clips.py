"""The drawn clips that the starters are trained on, as latents, numbered from 0 without end."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..types import SCALING_FACTOR
from .drawing import CLIP_FRAMES, ClipSpec, draw_clips, make_clip_spec

POOL_SIZE = 1024
ENCODED_AT_ONCE = 8


@dataclass(kw_only=True, slots=True)
class ClipPool:
    """Latents that training draws from; the oldest clips are replaced as it goes.

    Args:
        latents: (N, 4, F, h, w), scaled.
        numbers: which clip of the endless data set each one is.
        spread: how much its clips vary, see `make_clip_spec`.
    """

    latents: Tensor
    numbers: list[int]
    spread: float


def clip_spec(seed: int, number: int, spread: float = 1.0) -> ClipSpec:
    """Return what clip `number` of the data set of `seed` shows.

    Colour, shape and direction are the same at every spread.
    """
    return make_clip_spec(random.Random(f"{seed}-clip-{number}"), spread=spread)


@torch.no_grad()
def encode_clips(vae: Any, frames: Tensor) -> Tensor:
    """Encode (N, F, 3, H, W) in [0, 1] to scaled latents (N, 4, F, h, w)."""
    posterior = vae.encode(frames.flatten(0, 1) * 2 - 1).latent_dist
    latents = posterior.mean.float() * SCALING_FACTOR
    return latents.unflatten(0, (-1, frames.shape[1])).transpose(1, 2)


def make_latents(vae: Any, seed: int, numbers: range, spread: float) -> Tensor:
    """Draw and encode the given clips: (N, 4, F, h, w)."""
    specs = [clip_spec(seed, number, spread) for number in numbers]
    return encode_clips(vae, draw_clips(specs, CLIP_FRAMES))


def make_pool(vae: Any, size: int, seed: int, spread: float) -> ClipPool:
    """Fill a pool with the first `size` clips of the data set."""
    runs = [range(k, min(k + ENCODED_AT_ONCE, size)) for k in range(0, size, ENCODED_AT_ONCE)]
    parts = [make_latents(vae, seed, numbers, spread) for numbers in runs]
    return ClipPool(latents=torch.cat(parts), numbers=list(range(size)), spread=spread)


def refresh_pool(pool: ClipPool, vae: Any, seed: int) -> None:
    """Replace the oldest clip by the next of the data set."""
    number = max(pool.numbers) + 1
    slot = number % len(pool.numbers)
    pool.latents[slot] = make_latents(vae, seed, range(number, number + 1), pool.spread)[0]
    pool.numbers[slot] = number
