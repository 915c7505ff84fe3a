"""Tiny VAEs, inputs for them, and a decoder whose memory is limited."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.vae.frames import VideoVAE

from .tiny import vae as tiny_vae

BOTH = pytest.mark.parametrize("temporal", [False, True], ids=["image", "temporal"])
# float32 convolutions of other batch sizes round differently; frames lie in [0, 1]
SAME = 1e-5


def make_vae(temporal: bool, **options: Any) -> VideoVAE:
    tensors = tiny_vae.vae_tensors(temporal=temporal)
    return VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=temporal), **options)


def random_latents(batch: int = 2, frames: int = 5, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 4, frames, height, width, generator=generator) * 0.5


def random_frames(batch: int = 2, frames: int = 3, height: int = 24, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, frames, height, width, 3, generator=generator)


class CountedDecoder:
    """Stands in for a module's `decode`; fails as an accelerator does above a number of pixels."""

    def __init__(self, module: Any, limit: float = float("inf")) -> None:
        self.decode, self.limit = module.decode, limit
        self.shapes: list[tuple[int, ...]] = []
        self.alive: list[weakref.ref[Tensor]] = []
        self.left_over: list[int] = []

    def __call__(self, latents: Tensor, **options: Any) -> Any:
        self.left_over.append(sum(ref() is not None for ref in self.alive))
        self.shapes.append(tuple(latents.shape))
        if latents.numel() / 4 > self.limit:
            held = torch.ones(10)
            self.alive.append(weakref.ref(held))
            raise torch.OutOfMemoryError("no room for the test")
        return self.decode(latents, **options)
