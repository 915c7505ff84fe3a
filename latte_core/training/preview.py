"""Samples of a model in training: what it makes of some prompts or classes so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.latte.transformer import Latte
from ..pipelines.classes.pipeline import ClassPipeline
from ..text.pair import encode_pairs
from ..video import write_image, write_video
from ..video.grid import Grid
from .subject import Subject
from .train_config import TrainConfig
from .train_data import TrainData

MOST_SAMPLES = 4
SHEET_FRAMES = 8


class Preview:
    """Makes the same samples again and again, as the model learns.

    Prompts are encoded once, at the start, so that no text encoder is needed later.

    Args:
        subject: what is trained.
        config: of the run.
        data: whose captions or classes are taken where the config names none, and whose size.
    """

    def __init__(self, subject: Subject, config: TrainConfig, data: TrainData) -> None:
        self.subject = subject
        self.config = config
        info = data.sets[0].info
        self.height, self.width = info.latent_height * 8, info.latent_width * 8
        self.prompts = config.sample_prompts or self.usual(data)
        self.texts: list[tuple[Tensor, Tensor]] = []
        if subject.task == "text":
            pipeline: Any = subject.pipeline
            encoder = pipeline.parts.text_encoder()
            with torch.no_grad():
                self.texts = encode_pairs(encoder, self.prompts)

    def usual(self, data: TrainData) -> tuple[str, ...]:
        """Return some captions, or numbers of classes; one empty prompt for models without."""
        if self.subject.task == "text":
            return data.some_captions(MOST_SAMPLES) or ("",)
        if self.subject.task == "class":
            return tuple(str(k) for k in range(min(self.subject.num_classes, MOST_SAMPLES)))
        return ("",) * MOST_SAMPLES

    @torch.no_grad()
    def make(self) -> Tensor:
        """Return frames (N, F, H, W, 3) in [0, 1], one clip for each prompt."""
        if self.subject.task == "text":
            return torch.cat([self.of_text(pair) for pair in self.texts])
        return self.of_classes(self.prompts)

    def of_text(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Return one clip of an encoded prompt: (1, F, H, W, 3)."""
        pipeline: Any = self.subject.pipeline
        positive, negative = pair
        scale = self.config.sample_guidance
        result = pipeline(
            None,
            prompt_embeds=positive,
            negative_embeds=negative if scale > 1 else None,
            num_frames=self.config.num_frames,
            height=self.height,
            width=self.width,
            num_steps=self.config.sample_steps,
            guidance_scale=scale,
            vae="image",
            seed=[0],
        )
        frames: Tensor = result.frames
        return frames if frames.ndim == 5 else frames[None]

    def of_classes(self, prompts: Sequence[str]) -> Tensor:
        """Return a clip for each class, named or numbered; for an unconditional model, one each."""
        pipeline = self.subject.pipeline
        assert isinstance(pipeline, ClassPipeline)
        assert isinstance(self.subject.transformer, Latte)
        labels = [int(one) if one.isdigit() else one for one in prompts]
        guided = self.subject.has_null_class and self.config.sample_guidance > 1
        result = pipeline(
            labels if self.subject.task == "class" else None,
            seed=list(range(len(prompts))),
            num_frames=self.config.num_frames,
            height=self.height,
            width=self.width,
            steps=str(self.config.sample_steps),
            method="ddim",
            guidance_scale=self.config.sample_guidance if guided else 1.0,
        )
        assert result.frames is not None
        return result.frames

    def write(self, folder: Path, name: str) -> Path | None:
        """Write a sheet NAME.png, one row for each clip, and for more frames a video NAME.mp4.

        Returns:
            The sheet, or None if samples could not be made; training goes on without.
        """
        clips = self.make()
        folder.mkdir(parents=True, exist_ok=True)
        frames = spread_evenly(clips.shape[1], SHEET_FRAMES)
        cells = [clip[k : k + 1] for clip in clips for k in frames]
        sheet = Grid.of(len(cells), len(frames)).join(cells)[0]
        path = write_image(folder / f"{name}.png", sheet)
        if clips.shape[1] > 1:
            video = Grid.of(len(clips)).join(list(clips))
            write_video(folder / f"{name}.mp4", even_size(video), 8)
        return path


def spread_evenly(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` frame numbers, first and last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def even_size(frames: Tensor) -> Tensor:
    """Return frames (F, H, W, 3) with a black row or column added where a side is odd."""
    height, width = frames.shape[1:3]
    return torch.nn.functional.pad(frames, (0, 0, 0, width % 2, 0, height % 2))
