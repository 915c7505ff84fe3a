"""Noise of the reference's own sampler: as recorded, or drawn as the authors' scripts draw it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import IncompatibleInputsError
from .noise import check_seeds, draw, generator_for
from .spaced import NoiseOfStep


class ReferenceStream:
    """All draws of one run of the authors' class scripts, in their order (docs/model.md 7.2).

    One generator gives start noise, then (with guidance) labels, then the noise of each step; under
    guidance the scripts draw that of every step twice and use the first half. Videos are drawn as
    (F, 4, h, w). The authors draw on an accelerator or in half precision, which a CPU generator
    does not repeat: record the noise of such a run and hand it over as it is.

    Args:
        shape: (B, 4, F, h, w).
        seeds: one for a run of B videos, or one per video, each as a run of one video.
        is_guided: whether the run uses guidance.

    Raises:
        InvalidInputError: for a seed out of range or a wrong number of them.
    """

    def __init__(
        self, shape: Sequence[int], seeds: int | Sequence[int], *, is_guided: bool
    ) -> None:
        batch, channels, frames, height, width = shape
        self._generators = [generator_for(seed) for seed in check_seeds(seeds, batch)]
        self._batch = batch // len(self._generators)
        self._size = (frames, channels, height, width)
        self._is_guided = is_guided

    def draw_start(self) -> Tensor:
        """Return the start noise (B, 4, F, h, w) float32; to be drawn first."""
        return self._draw(copies=1)

    def draw_labels(self, num_classes: int) -> Tensor:
        """Return random labels (B,) int64; to be drawn second, under guidance only."""
        drawn = [
            torch.randint(0, num_classes, (self._batch,), generator=generator)
            for generator in self._generators
        ]
        return torch.cat(drawn)

    def __call__(self, step_index: int) -> Tensor:
        """Return the noise (B, 4, F, h, w) float32 of the next step."""
        return self._draw(copies=2 if self._is_guided else 1)

    def _draw(self, copies: int) -> Tensor:
        drawn = [
            draw((copies * self._batch, *self._size), generator)[: self._batch]
            for generator in self._generators
        ]
        return torch.cat(drawn).transpose(1, 2)


def checked_noise(noise: NoiseOfStep, shape: Sequence[int]) -> NoiseOfStep:
    """Return `noise` with its answers checked for their shape, as float32 where they are.

    The returned function raises IncompatibleInputsError for an answer of another shape.
    """

    def noise_of(step_index: int) -> Tensor:
        drawn = torch.as_tensor(noise(step_index))
        if drawn.shape != torch.Size(shape):
            raise IncompatibleInputsError(
                f"The noise given for step {step_index} has shape {tuple(drawn.shape)}, but the "
                f"latents have {tuple(shape)}. Give every step noise shaped like the latents."
            )
        return drawn.detach().to(torch.float32)

    return noise_of
