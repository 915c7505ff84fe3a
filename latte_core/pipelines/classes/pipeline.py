"""Class in, video out: sampling of the class-conditional and unconditional Latte, and decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...acceleration.run import CachedLatte, RunCache
from ...acceleration.settings import CacheSettings
from ...config.latte import LatteConfig
from ...diffusion import check_eta, space_timesteps
from ...errors import InvalidInputError
from ...memory import MemoryPlan
from ...model.latte.transformer import Latte
from ...sampling import StepNoise, uses_guidance
from ...sampling.noise import check_noise_order, check_seeds
from ...sampling.reference import METHODS, sample_reference
from ...sampling.reference_noise import ReferenceStream
from ...sampling.spaced import NoiseOfStep
from ...types import StepCallback, VideoShape
from ...vae.frames import VideoVAE
from ..base import VideoPipeline
from ..part_sizes import check_room_for_cache, check_room_for_run
from ..run import (
    Made,
    PipelineResult,
    check_call,
    check_choice,
    join_noise,
    listeners,
    noise_of_videos,
    result_of,
    shape_to_make,
    slices,
)
from .labels import Label, authors_labels, count_videos, is_listed, labels_of
from .parts import ClassDefaults, ClassFolderParts, ClassParts, GivenClassParts


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRun:
    """Checked settings of a run; see `ClassPipeline.__call__`."""

    method: str
    steps: str
    guidance_scale: float
    eta: float
    temporal_attention: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Checked arguments of one call.

    Args:
        run: settings.
        shape: of all videos.
        labels: their classes; None for an unconditional model.
        seed: one for all of them, or one for each.
        latents: their start noise, or None to draw it.
        cache: of each batch, or None.
    """

    run: ClassRun
    shape: VideoShape
    labels: tuple[int, ...] | None
    seed: int | Sequence[int]
    latents: Tensor | None
    cache: CacheSettings | None


class ClassPipeline(VideoPipeline[ClassParts]):
    """Videos of a class, or of no class, from a class-conditional or unconditional Latte.

    Args:
        transformer: a Latte.
        vae: its VAE; may be left out for latents only.
        class_names: in the order of labels, if the classes have names.
        defaults: how to run the model best; the authors' settings when left out.
    """

    def __init__(
        self,
        transformer: Latte,
        *,
        vae: VideoVAE | None = None,
        class_names: Sequence[str] = (),
        defaults: ClassDefaults | None = None,
    ) -> None:
        self.parts = GivenClassParts(
            transformer=transformer,
            class_names=tuple(class_names),
            defaults=defaults or ClassDefaults.of(transformer.config, {}),
            given_vae=vae,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        vae: str | Path | None = None,
        config: Mapping[str, Any] | LatteConfig | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        memory: str | int | MemoryPlan = "auto",
        precision: str | None = None,
    ) -> ClassPipeline:
        """Open a model: `class-starter`, a folder with `transformer/`, or a file like ucf101.pt.

        Args:
            folder: the word `class-starter`, or a path.
            vae: path of a VAE's folder or file; or `image` (as in training) or `temporal` for the
                one beside the model. Left out: `image`.
            config: settings that the weights do not show, under our names or the reference's.
            dtype: of all weights. Left out: float32 on the CPU and for models with a card, else
                bfloat16 where the hardware has it and float16 where not.
            device: left out: the accelerator if there is one, else the CPU.
            memory: which parts stay on the device: `auto` for what fits, or the gigabytes of a
                card, one of `memory.PRESETS`, or a plan of your own.
            precision: see `set_precision`, which comes after `load_lora`.

        Raises:
            InvalidInputError: if there is no such model, VAE or device.
            IncompatibleInputsError: for a text-to-video model.
            CheckpointError: if the transformer cannot be loaded.
        """
        pipeline = cls.__new__(cls)
        pipeline.parts = ClassFolderParts(folder, vae, config, dtype, device, memory)
        pipeline.set_precision(precision)
        return pipeline

    @property
    def defaults(self) -> ClassDefaults:
        """How this model is best run, from its card where it has one."""
        return self.parts.defaults

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of labels; empty if the classes have none."""
        return self.parts.class_names

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return self.parts.transformer.config.num_classes

    def settle(
        self,
        method: str | None = None,
        steps: str | int | None = None,
        guidance_scale: float | None = None,
        eta: float = 0.0,
        temporal_attention: bool = True,
    ) -> ClassRun:
        """Return checked settings; what was left out are the model's own.

        Raises:
            InvalidInputError: for a value that cannot be used, and for guidance without classes.
        """
        best = self.defaults
        run = ClassRun(
            method=best.method if method is None else str(method).strip().lower(),
            steps=best.steps if steps is None else str(steps),
            guidance_scale=best.guidance_scale if guidance_scale is None else guidance_scale,
            eta=check_eta(eta),
            temporal_attention=temporal_attention,
        )
        check_choice("method", run.method, METHODS)
        space_timesteps(run.steps)
        if uses_guidance(run.guidance_scale) and not self.num_classes:
            raise InvalidInputError(
                f"guidance_scale is {run.guidance_scale:g}, but this model is unconditional: there "
                "is no class to follow more closely. Leave it out, or set it to 1."
            )
        return run

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Label | Sequence[Label] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        method: str | None = None,
        steps: str | int | None = None,
        guidance_scale: float | None = None,
        eta: float = 0.0,
        seed: int | Sequence[int] = 0,
        noise_order: str = "comfyui",
        latents: Tensor | None = None,
        temporal_attention: bool = True,
        decode_chunk: int | None = None,
        output: str = "frames",
        callback: StepCallback | None = None,
        cache: CacheSettings | None = None,
        batch_size: int = 1,
    ) -> PipelineResult:
        """Make one video per label, or per seed, each as if it were made alone.

        Args:
            class_labels: numbers or names in any spelling, or `random` for one drawn from the
                seed; one for all videos, or one for each. None for unconditional models only.
            num_frames, height, width: by default those the model was trained on.
            method: `ddpm` or `ddim`.
            steps: "250", "10,15,20" or "ddim50" (docs/model.md 7.1).
            guidance_scale: above 1 the class is followed more closely; 1 or less is off.
            eta: noise per step of ddim, 0 .. 1.
            seed: one for all videos (they continue one stream), or one for each.
            noise_order: `comfyui` draws what KSampler draws for the seed, `reference` what the
                authors' script does, `random` classes under guidance among it.
            latents: (N, 4, F, h, w) start noise of unit variance, in place of the seed's.
            temporal_attention: off makes every frame a picture of its own.
            decode_chunk: frames decoded at a time; by default as the size of the clip plans it.
            output: `frames`, or `latents` to leave out decoding.
            callback: called after each model call; an exception it raises ends the run unchanged.
            cache: how to compute less of each run, at some loss of likeness; None computes all.
            batch_size: how many videos are made together, as in `Pipeline`; with the noise order
                `reference` it is all of them.

        Returns:
            Latents, frames and the numbers of the classes; a list of labels or seeds gives one more
            axis in front of the frames.

        Raises:
            InvalidInputError: for a value that cannot be used, a class there is not, or a class
                that is missing.
            IncompatibleInputsError: for a class given to an unconditional model, latents that do
                not fit, or numbers of labels, seeds and latents that differ.
            NonFiniteError: if the run breaks down to NaN.
            CheckpointError: if a VAE is needed and missing.
        """
        check_call(output, batch_size, decode_chunk)
        count = count_videos(class_labels, seed, latents)
        best = self.defaults
        shape = shape_to_make(
            count,
            (num_frames, height, width),
            (best.num_frames, best.height, best.width),
            latents,
        )
        as_authors = check_noise_order(noise_order) == "reference"
        run = self.settle(method, steps, guidance_scale, eta, temporal_attention)
        is_guided = uses_guidance(run.guidance_scale)
        together = count if as_authors else min(batch_size, count)
        videos = together * (1 + is_guided)
        check_room_for_run(
            self.parts, shape, videos, is_drawn=latents is None, is_decoded=output == "frames"
        )
        labels = labels_of(
            class_labels,
            check_seeds(seed, count),
            count,
            self.parts.transformer.config,
            self.class_names,
            partial(authors_labels, shape.latent_size(), seed)
            if as_authors and is_guided
            else None,
        )
        request = Request(
            run=run, shape=shape, labels=labels, seed=seed, latents=latents, cache=cache
        )
        self._cache(request)  # refuses what does not fit before anything is made
        if output == "frames":
            self.parts.check_vae()
        check_room_for_cache(cache, self.parts, shape, videos)
        with self.parts.stages.run():
            self.parts.begin_sampling()
            if as_authors:
                made = [self._sample_as_authors(request, callback)]
            else:
                made = self._sample_batches(request, callback, batch_size)
        decode = partial(self.decode, decode_chunk=decode_chunk)
        is_list = count > 1 or is_listed(class_labels) or is_listed(seed)
        return result_of(
            made, decode if output == "frames" else None, is_list=is_list, class_labels=labels
        )

    @torch.no_grad()
    def decode(self, latents: Tensor, *, decode_chunk: int | None = None) -> Tensor:
        """Turn latents (N, 4, F, h, w) into frames (N, F, H, W, 3), float32 in [0, 1] on the CPU.

        Raises:
            NonFiniteError: if the VAE breaks down to NaN.
        """
        return self._decode(latents, self.parts.vae, decode_chunk)

    def _sample_batches(
        self, request: Request, callback: StepCallback | None, batch_size: int
    ) -> list[Made]:
        """Make so many videos at a time, with the noise of `Pipeline` and KSampler."""
        size = request.shape.latent_size()
        start, steps = noise_of_videos(size, request.seed, "comfyui", request.latents)
        batches = slices(len(start), batch_size)
        return [
            self._sample(
                request,
                start[rows],
                rows,
                listener,
                _as_function(join_noise(steps[rows]), start[rows].shape),
            )
            for rows, listener in zip(batches, listeners(callback, len(batches)), strict=True)
        ]

    def _sample_as_authors(self, request: Request, callback: StepCallback | None) -> Made:
        """Make all videos in one batch, as they share one stream of noise."""
        start = request.latents
        if start is None:
            size, is_guided = request.shape.latent_size(), uses_guidance(request.run.guidance_scale)
            start = ReferenceStream(size, request.seed, is_guided=is_guided).draw_start()
        return self._sample(request, start, slice(None), callback)

    def _sample(
        self,
        request: Request,
        start: Tensor,
        rows: slice,
        callback: StepCallback | None,
        noise: NoiseOfStep | None = None,
    ) -> Made:
        """Make the latents of the videos of one batch.

        Args:
            request: of all videos.
            start: noise of the batch.
            rows: which of the videos it is.
            callback: told of each step.
            noise: of each step; None draws it from the seed as the authors do.
        """
        run, cache, labels = request.run, self._cache(request), request.labels
        model = self.parts.transformer
        with self._precision.active():
            latents = sample_reference(
                self._denoiser if cache is None else CachedLatte(model, cache),
                start,
                method=run.method,
                steps=run.steps,
                guidance_scale=run.guidance_scale,
                class_labels=None if labels is None else labels[rows],
                eta=run.eta,
                seed=request.seed,
                noise=noise,
                callback=callback,
                noise_order="reference",
                temporal_attention=run.temporal_attention,
            )
        return latents, None if cache is None else cache.close()

    def _cache(self, request: Request) -> RunCache | None:
        """Return the cache of one run, if there is to be one."""
        if request.cache is None:
            return None
        self._check_cache_and_graphs()
        is_guided = uses_guidance(request.run.guidance_scale)
        return RunCache(
            request.cache,
            self.parts.transformer,
            num_steps=len(space_timesteps(request.run.steps)),
            sampler=request.run.method,
            ids=("class", "null") if is_guided else ("class",),
        )


def _as_function(steps: StepNoise, size: tuple[int, ...]) -> NoiseOfStep:
    """Return what `sample_reference` asks for the noise of each step."""
    return lambda _: steps.draw(size)
