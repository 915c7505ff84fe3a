"""What both pipelines do around sampling: run faster, merge LoRAs, and decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..checkpoint.lora.reader import merge_lora_file
from ..model.weights.merge import LoraPatch
from ..vae.frames import VideoVAE
from .parts import CommonParts
from .speed import SpeedUps

Parts = TypeVar("Parts", bound=CommonParts)


class VideoPipeline(SpeedUps, Generic[Parts]):
    """Of a model whose `parts` have a transformer that makes latents."""

    parts: Parts

    def load_lora(self, path: str | Path, strength: float = 1.0) -> LoraPatch:
        """Merge a LoRA into the transformer, and log how much of the file is used.

        Several can be merged; each is taken out by the `remove()` of what is returned, and the
        last removal brings back every bit of the weights. All pipelines that share the
        transformer are changed.

        Args:
            path: of the file, in any trainer's names, or a folder that PEFT wrote.
            strength: 0 changes nothing; negative numbers turn it round.

        Raises:
            InvalidInputError: for a strength that is no finite number.
            IncompatibleInputsError: if it does not fit the transformer.
            CheckpointError: if it cannot be read, or was made for another model.
        """
        return merge_lora_file(self.parts.transformer, path, strength)

    def _decode(self, latents: Tensor, vae: Callable[[], VideoVAE], chunk: int | None) -> Tensor:
        """Return the frames of latents; see `decode` of the pipelines.

        Args:
            latents: (N, 4, F, h, w).
            vae: returns the VAE, where it works.
            chunk: frames decoded at a time.
        """
        with self.parts.stages.run():
            decoder = vae()
            how = self.parts.stages.decoding(is_temporal=decoder.is_temporal, chunk=chunk)
            made = [decoder.decode(video[None], **how) for video in latents]
        return torch.cat(made).to("cpu", torch.float32)
