"""Prompt in, video out: the one place where text encoder, transformer, sampler and VAE meet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...acceleration.run import RunCache
from ...acceleration.settings import CacheSettings
from ...memory import MemoryPlan
from ...model.attention import BlockHooks
from ...precision.layers import layer_dtype
from ...sampling import (
    NoisePredictor,
    ScheduleSettings,
    StepNoise,
    guided_in_one_batch,
    make_stepper,
    resolve_sampler,
    sample,
    uses_guidance,
)
from ...shipped import VAE_FOLDERS
from ...text.t5 import TextEncoder
from ...types import PIXELS_PER_CELL, StepCallback, VideoShape
from ...vae.frames import VideoVAE
from ..base import VideoPipeline
from ..part_sizes import check_room_for_cache, check_room_for_run
from ..run import (
    Made,
    PipelineResult,
    check_call,
    check_choice,
    listeners,
    naming_size,
    noise_of_videos,
    result_of,
    shape_to_make,
)
from .batch import Batch, make_batches
from .inputs import TextInputs, make_conditions
from .parts import Defaults, FolderParts, GivenParts, Parts

READS_VARIANCE = ("ddpm",)  # samplers that use the variance logits


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Checked arguments of one call."""

    shape: VideoShape
    sampler: str
    num_steps: int
    guidance_scale: float
    eta: float
    temporal_attention: bool
    cache: CacheSettings | None


class Pipeline(VideoPipeline[Parts]):
    """Text to video.

    Args:
        transformer: a LatteT2V.
        text_encoder: None if prompts will come as embeddings.
        vaes: VAEs by kind, `temporal` or `image`.
        settings: noise schedule; Latte-1's by default.
        defaults: how to run the model best.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        text_encoder: TextEncoder | None = None,
        vaes: dict[str, VideoVAE] | None = None,
        settings: ScheduleSettings | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        self.parts = GivenParts(
            transformer=transformer,
            encoder=text_encoder,
            vaes=vaes or {},
            settings=settings or ScheduleSettings(),
            defaults=defaults or Defaults(),
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        memory: str | int | MemoryPlan = "auto",
        embedding_cache: str | Path = "memory",
        precision: str | None = None,
        text_precision: str | None = None,
    ) -> Pipeline:
        """Open a model: `starter`, a folder in Latte-1's layout, or a transformer file.

        Text encoder and VAE are looked for beside the transformer and loaded when first needed.

        Args:
            folder: the word `starter`, or a path.
            dtype: of all weights. Left out: float32 on the CPU and for the starter, else 16 bits.
            device: left out: the accelerator if there is one, else the CPU.
            memory: which parts stay on the device: `auto` for what fits, or the gigabytes of a
                card, one of `memory.PRESETS`, or a plan of your own.
            embedding_cache: where encoded prompts are kept: `memory`, also on `disk` in the user's
                cache folder, in a folder of your own, or `off`.
            precision: see `set_precision`, which comes after `load_lora`.
            text_precision: `fp8`, `int8` or `int4` stores the text encoder in so many bits.

        Raises:
            InvalidInputError: if there is no such model or device, or for a choice there is not.
            CheckpointError: if the transformer cannot be loaded.
        """
        pipeline = cls.__new__(cls)
        pipeline.parts = FolderParts(folder, dtype, device, memory, embedding_cache, text_precision)
        pipeline.set_precision(precision)
        return pipeline

    @property
    def defaults(self) -> Defaults:
        """How this model is best run, from its card where it has one."""
        return self.parts.defaults

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] = "",
        num_frames: int = 16,
        height: int | None = None,
        width: int | None = None,
        num_steps: int = 50,
        guidance_scale: float = 7.5,
        sampler: str = "ddim",
        seed: int | Sequence[int] = 0,
        eta: float = 0.0,
        noise_order: str = "comfyui",
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_embeds: Tensor | None = None,
        clean_caption: bool = True,
        mask_feature: bool = True,
        temporal_attention: bool = True,
        vae: str = "temporal",
        decode_chunk: int | None = None,
        output: str = "frames",
        callback: StepCallback | None = None,
        cache: CacheSettings | None = None,
        batch_size: int = 1,
    ) -> PipelineResult:
        """Make one video per prompt, each as if it were made alone.

        Args:
            prompt: one text, or a list; not read when `prompt_embeds` is given.
            negative_prompt: what to stay away from; one for all, or one for each.
            num_frames: 16 is what Latte was trained on; 1 makes a picture.
            height, width: pixels, multiples of 16; by default the size the model was trained on.
            num_steps: sampling steps.
            guidance_scale: above 1 the prompt is followed more closely; 1 or less is off.
            sampler: one of `sampling.SAMPLER_NAMES`, or the reference's spelling.
            seed: one for all videos (they continue one stream), or one for each.
            eta: noise per step of ddim, 0 .. 1.
            noise_order: `comfyui` draws what KSampler draws for the seed, `reference` what the
                authors' pipeline does.
            latents: (N, 4, F, h, w) start noise of unit variance, in place of the seed's.
            prompt_embeds: (N, n, C) text features, in place of `prompt`.
            negative_embeds: (N or 1, n, C), in place of `negative_prompt`.
            clean_caption: clean prompts as the reference does; off for brackets, digits, Chinese.
            mask_feature: drop the padding of prompts, as the reference does for one prompt.
            temporal_attention: off makes every frame a picture of its own.
            vae: `temporal` (smooth in time) or `image` (frame by frame).
            decode_chunk: frames decoded at a time; by default as the size of the clip plans it.
            output: `frames`, or `latents` to leave out decoding.
            callback: called after each model call; an exception it raises ends the run unchanged.
            cache: how to compute less of each run, at some loss of likeness; None computes all.
            batch_size: how many videos are made together: faster where small ones leave the device
                idle, for so many times the memory; they differ by rounding from those made alone,
                and under a cache that measures a change by the steps that another one needs.

        Returns:
            Frames and latents; a list of prompts gives one more axis in front of the frames.

        Raises:
            InvalidInputError: for a value that cannot be used.
            IncompatibleInputsError: for latents, embeddings or a cache that do not fit.
            NonFiniteError: if the run breaks down to NaN.
            CheckpointError: if a text encoder or VAE is needed and missing.
        """
        check_choice("vae", vae, tuple(VAE_FOLDERS))
        check_call(output, batch_size, decode_chunk)
        is_guided = uses_guidance(guidance_scale)
        text = TextInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_embeds=negative_embeds,
            is_guided=is_guided,
            clean_caption=clean_caption,
            mask_feature=mask_feature,
        )
        count = text.count()
        request = Request(
            shape=self._shape(count, num_frames, height, width, latents),
            sampler=resolve_sampler(sampler),
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            temporal_attention=temporal_attention,
            cache=cache,
        )
        together = min(batch_size, count) * (1 + is_guided)
        check_room_for_run(
            self.parts,
            request.shape,
            together,
            is_drawn=latents is None,
            is_decoded=output == "frames",
        )
        noise, step_noise = noise_of_videos(request.shape.latent_size(), seed, noise_order, latents)
        num_calls = self._check_run(request, step_noise[0])
        check_room_for_cache(cache, self.parts, request.shape, together)
        self.parts.check(vae if output == "frames" else None, text.needs_encoder())
        with self.parts.stages.run():
            conditions = make_conditions(text, self.parts.prompt_encoder)
            self.parts.begin_sampling()
            batches = make_batches(conditions, step_noise, batch_size)
            heard = zip(batches, listeners(callback, len(batches)), strict=True)
            made = [
                self._sample(request, noise[batch.rows], batch, listener, num_calls)
                for batch, listener in heard
            ]
        decode = partial(self.decode, vae=vae, decode_chunk=decode_chunk)
        is_list = count > 1 or isinstance(prompt, list | tuple)
        return result_of(made, decode if output == "frames" else None, is_list=is_list)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, *, vae: str = "temporal", decode_chunk: int | None = None
    ) -> Tensor:
        """Turn latents (N, 4, F, h, w) into frames (N, F, H, W, 3), float32 in [0, 1] on the CPU.

        Raises:
            NonFiniteError: if the VAE breaks down to NaN.
        """
        return self._decode(latents, partial(self.parts.vae, vae), decode_chunk)

    def _check_run(self, request: Request, noise: StepNoise) -> int:
        """Return the model calls of a run; raise now what it would raise after encoding text."""
        stepper = make_stepper(
            request.sampler,
            request.num_steps,
            noise=noise,
            eta=request.eta,
            settings=self.parts.settings,
        )
        num_calls = len(stepper.timesteps)
        self._cache(request, num_calls)
        return num_calls

    def _cache(self, request: Request, num_calls: int) -> RunCache | None:
        """Return the cache of one video's run, if there is to be one."""
        if request.cache is None:
            return None
        self._check_cache_and_graphs()
        is_guided = uses_guidance(request.guidance_scale)
        settings = request.cache
        if settings.wants_schedules:
            shipped = self.parts.cache_schedules(request.sampler, num_calls)
            settings = replace(settings, schedules=shipped)
        return RunCache(
            settings,
            self.parts.transformer,
            num_steps=num_calls,
            sampler=request.sampler,
            ids=("negative", "positive") if is_guided else ("positive",),
            followed=int(is_guided),
        )

    def _shape(
        self,
        count: int,
        num_frames: int,
        height: int | None,
        width: int | None,
        latents: Tensor | None,
    ) -> VideoShape:
        """Return the size to make; warn if it is longer than the model was trained on."""
        config: Any = self.parts.transformer.config
        side = config.sample_size * PIXELS_PER_CELL
        shape = shape_to_make(count, (num_frames, height, width), (num_frames, side, side), latents)
        trained = self.parts.defaults.num_frames
        if num_frames > trained:
            warnings.warn(
                f"{num_frames} frames were asked for, but this model was trained on {trained}: "
                f"expect noise and checkerboards. Ask for {trained} or fewer; longer videos are "
                'made in ComfyUI, where "Context Windows (Manual)" is added to the model.',
                stacklevel=4,  # past __call__ and its no_grad wrapper
            )
        return shape

    def _sample(
        self,
        request: Request,
        noise: Tensor,
        batch: Batch,
        callback: StepCallback | None,
        num_calls: int,
    ) -> Made:
        """Make the latents of the videos of one batch."""
        cache = self._cache(request, num_calls)
        predict = self._predictor(batch, request, noise.shape, cache)
        if uses_guidance(request.guidance_scale):
            predict = guided_in_one_batch(predict, request.guidance_scale)
        transformer = self.parts.transformer
        with self._precision.active(), naming_size(request.shape):
            latents = sample(
                predict,
                noise,
                sampler=request.sampler,
                num_steps=request.num_steps,
                eta=request.eta,
                step_noise=batch.noise,
                settings=self.parts.settings,
                callback=callback,
                compute_dtype=layer_dtype(transformer),
                device=next(transformer.parameters()).device,
            )
        return latents, None if cache is None else cache.close()

    def _predictor(
        self, batch: Batch, request: Request, size: tuple[int, ...], cache: RunCache | None
    ) -> NoisePredictor:
        """Bind text and size to the transformer: prepared once here, used at every step."""
        transformer: Any = self.parts.transformer
        denoiser = self._denoiser
        device = next(transformer.parameters()).device
        options: dict[str, Any] = {
            "text": batch.project(transformer, device),
            "places": transformer.place_tables(size, device),
            "enable_temporal_attention": request.temporal_attention,
            "shared_input": uses_guidance(request.guidance_scale),
            "noise_only": request.sampler not in READS_VARIANCE,
        }
        followed = options  # of calls that leave out the negative prompt
        if cache is not None and cache.may_halve:
            text = batch.project(transformer, device, first=size[0])
            followed = {**options, "text": text, "shared_input": False}

        def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
            # all of them at the same timestep, also those that guidance asks about twice
            timestep = float(timesteps[0])
            time = torch.full((1,), timestep, device=device)
            if cache is None:
                return denoiser(latents, time, **options)

            def call(rows: slice, hooks: BlockHooks) -> Tensor:
                chosen = latents[rows]
                what = options if len(chosen) == len(latents) else followed
                return transformer(chosen, time, hooks=hooks, **what)

            return cache.predict(len(latents), timestep, call)

        return predict
