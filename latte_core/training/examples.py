"""What each update is trained on, as a function of the seed and the place in the run alone.

Example n of a run is always the same clip, frames, noise and timestep, whichever process makes it
and however often the run was stopped. So a resumed run repeats nothing and loses nothing, and two
processes see together what one would see alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.frame_sampling import frame_indices
from ..diffusion.betas import TRAIN_STEPS
from ..transfers import pinned, send
from .train_config import TrainConfig
from .train_data import TrainData

ON_CPU = ("positions", "labels", "image_labels")  # tensors of a batch that stay there


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One clip, with the images beside it.

    Args:
        number: of the example in the run.
        latents: (4, F + I, h, w) clean.
        noise: the same shape.
        timestep: 0 .. 999.
        positions: places in time of the F frames, or None for 0 .. F-1.
        contexts: (n, C) text of the clip, then of each image; empty for models without text.
        label, image_labels: classes; None and () without.
        is_dropped: whether the class is to be hidden; a hidden caption is in `contexts` already.
        are_images_dropped: the same of the images, one draw for all of them.
        num_images: I.
    """

    number: int
    latents: Tensor
    noise: Tensor
    timestep: int
    positions: tuple[int, ...] | None
    contexts: tuple[Tensor, ...]
    label: int | None
    image_labels: tuple[int, ...]
    is_dropped: bool
    are_images_dropped: bool
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Several examples: b clips with I images each. Text rows are padded, masks say which count.

    Places and classes stay on the CPU, where models make tables of them and check them.
    """

    numbers: tuple[int, ...]  # b
    latents: Tensor  # b 4 F+I h w
    noise: Tensor
    timesteps: Tensor  # b
    num_images: int
    positions: Tensor | None  # b F
    context: Tensor | None  # b L C
    mask: Tensor | None  # b L
    image_context: Tensor | None  # b*I L C
    image_mask: Tensor | None
    labels: Tensor | None  # b
    image_labels: Tensor | None  # b I
    dropped: Tensor  # b, or b 2 with images: of the clip, of its images

    def to(self, device: torch.device) -> Batch:
        """Return the batch with what is computed with on a device, which nobody waits for."""
        return self._with(lambda tensor: send(tensor, device))

    def pinned(self) -> Batch:
        """Return the batch with that in pinned memory, from where it goes to a device faster."""
        return self._with(pinned)

    def _with(self, move: Callable[[Tensor], Tensor]) -> Batch:
        moved: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value: object = getattr(self, name)
            if isinstance(value, Tensor) and name not in ON_CPU:
                moved[name] = move(value)
        return replace(self, **moved)


def order_of_epoch(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order in which the clips of an epoch come: a permutation (count,)."""
    number = random.Random(f"{seed}-epoch-{epoch}").getrandbits(60)
    return torch.randperm(count, generator=torch.Generator().manual_seed(number))


class Examples:
    """Examples 0, 1, 2 ... of a run; update s takes s * batch_size and the following.

    Args:
        data: what to choose from.
        config: of the run.
        has_null_class: whether a class can be hidden.
    """

    def __init__(self, data: TrainData, config: TrainConfig, *, has_null_class: bool) -> None:
        self.data = data
        self.config = config
        self.has_null_class = has_null_class
        self._epoch, self._order = -1, torch.empty(0)  # the order made last

    def make(self, number: int) -> Example:
        """Return example `number`."""
        config, data = self.config, self.data
        rng = random.Random(f"{config.seed}-example-{number}")
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        epoch, place = divmod(number, len(data))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of_epoch(config.seed, epoch, len(data))
        clip = int(self._order[place])
        is_dropped = rng.random() < config.drop_condition
        frames = self.choose_frames(data.num_frames(clip), rng)
        images = [rng.randrange(len(data)) for _ in range(config.num_images)]
        are_images_dropped = bool(images) and rng.random() < config.drop_condition
        flipped = config.flip and rng.random() < 0.5
        parts = [self.draw(clip, frames, flipped, generator)]
        for image in images:
            frame = rng.randrange(data.num_frames(image))
            flipped = config.flip and rng.random() < 0.5
            parts.append(self.draw(image, (frame,), flipped, generator))
        latents = torch.cat(parts, dim=1)  # 4 F+I h w
        timestep = self.draw_timestep(number, rng)
        return Example(
            number=number,
            latents=latents,
            noise=torch.randn(latents.shape, generator=generator),
            timestep=timestep,
            positions=frames if config.frame_choice == "scattered" else None,
            contexts=(
                data.context(clip, rng, is_dropped),
                *(data.context(one, rng, are_images_dropped) for one in images),
            )
            if data.has_text
            else (),
            label=data.class_label(clip),
            image_labels=tuple(
                label for one in images if (label := data.class_label(one)) is not None
            ),
            is_dropped=is_dropped and self.has_null_class,
            are_images_dropped=are_images_dropped and self.has_null_class,
            num_images=config.num_images,
        )

    def choose_frames(self, total: int, rng: random.Random) -> tuple[int, ...]:
        """Return which F frames of a video are taken."""
        config = self.config
        if config.frame_choice == "scattered":
            return tuple(sorted(rng.sample(range(total), min(config.num_frames, total))))
        return frame_indices(
            total,
            num_frames=config.num_frames,
            interval=config.interval,
            style=config.frame_choice,
            rng=rng,
        )

    def draw(
        self, clip: int, frames: Sequence[int], flipped: bool, generator: torch.Generator
    ) -> Tensor:
        """Return latents (4, F, h, w): one sample of what the VAE's encoder gave."""
        mean, std = self.data.moments(clip, frames, flipped=flipped)
        if std is not None:
            mean = mean + std * torch.randn(mean.shape, generator=generator)
        return mean.transpose(0, 1)

    def draw_timestep(self, number: int, rng: random.Random) -> int:
        """Return 0 .. 999, from the example's own part of the range if that is asked for."""
        if self.config.timestep_draw == "uniform":
            return rng.randrange(TRAIN_STEPS)
        size = self.config.batch_size
        place = (number % size + rng.random()) / size
        return min(int(place * TRAIN_STEPS), TRAIN_STEPS - 1)


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples of one size together."""
    first = examples[0]
    clips = [one.contexts[0] for one in examples if one.contexts]
    pictures = [text for one in examples for text in one.contexts[1:]]
    context, mask = pad_rows(clips)
    image_context, image_mask = pad_rows(pictures)
    labels = [one.label for one in examples if one.label is not None]
    has_labels = len(labels) == len(examples)
    return Batch(
        numbers=tuple(one.number for one in examples),
        latents=torch.stack([one.latents for one in examples]),
        noise=torch.stack([one.noise for one in examples]),
        timesteps=torch.tensor([one.timestep for one in examples]),
        num_images=first.num_images,
        positions=None
        if first.positions is None
        else torch.tensor([one.positions for one in examples]),
        context=context,
        mask=mask,
        image_context=image_context,
        image_mask=image_mask,
        labels=torch.tensor(labels) if has_labels else None,
        image_labels=torch.tensor([one.image_labels for one in examples])
        if has_labels and first.image_labels
        else None,
        dropped=torch.tensor(
            [
                [one.is_dropped, one.are_images_dropped] if one.num_images else one.is_dropped
                for one in examples
            ]
        ),
    )


def pad_rows(texts: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return texts (n, C) as (B, L, C) with zeros below, and the mask (B, L) of real rows."""
    if not texts:
        return None, None
    longest = max(len(text) for text in texts)
    context = torch.zeros(len(texts), longest, texts[0].shape[1])
    mask = torch.zeros(len(texts), longest)
    for row, text in enumerate(texts):
        context[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return context, mask
