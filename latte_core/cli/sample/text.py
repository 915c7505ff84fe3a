"""`sample` with a text-to-video model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import IncompatibleInputsError, InvalidInputError
from ...memory import AUTO
from ...pipelines.text.pipeline import Pipeline
from ...sampling import resolve_sampler
from ...shipped import STARTER, VAE_FOLDERS
from ...types import StepCallback, VideoShape
from .cache import CacheNotes, cache_entry
from .compile import CompileNotes, compile_entry
from .jobs import Job, batch_entry, step_count
from .lora import loras_entry, merge_loras
from .memory import decode_entry, embedding_choice, memory_entry, tell_memory
from .precision import precision_entry, set_precision
from .settings import Settings

MAX_TITLE = 32
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides a video but its prompt and seed; stored in the file's comment."""

    model: str
    negative: str
    steps: int
    guidance: float
    sampler: str
    eta: float
    frames: int
    height: int
    width: int
    vae: str
    temporal_attention: bool


class TextMaker:
    """Makes videos from prompts.

    Args:
        settings: of the run.
        dtype, device: as for `Pipeline.from_pretrained`.

    Raises:
        InvalidInputError: for a prompt that is missing, or a value that cannot be used.
        IncompatibleInputsError: for settings that belong to class models.
    """

    def __init__(self, settings: Settings, dtype: torch.dtype | None, device: str | None) -> None:
        model = settings.model or STARTER
        check_text_settings(settings, Path(model).name)
        self._settings = settings
        self._pipeline = Pipeline.from_pretrained(
            model,
            dtype=dtype,
            device=device,
            memory=settings.memory or AUTO,
            embedding_cache=embedding_choice(settings.embedding_cache),
            text_precision=settings.text_precision,
        )
        tell_memory(self._pipeline, settings.memory)
        self._check_betas()
        merge_loras(self._pipeline, settings.loras)
        set_precision(self._pipeline, settings)
        self._recipe = make_recipe(settings, self._pipeline, Path(model).name)
        self._notes = CacheNotes()
        self._compile_notes = CompileNotes(self._pipeline, settings)

    @property
    def items(self) -> Sequence[str | None]:
        return self._settings.prompts

    @property
    def size(self) -> tuple[int, int, int]:
        return self._recipe.frames, self._recipe.height, self._recipe.width

    @property
    def fps(self) -> float:
        return either(self._settings.fps, self._pipeline.defaults.fps)

    @property
    def batch(self) -> int:
        return either(self._settings.batch, 1)

    @property
    def recipe(self) -> Mapping[str, Any]:
        return {
            **asdict(self._recipe),
            **loras_entry(self._settings.loras),
            **cache_entry(self._settings.cache),
            **compile_entry(self._settings),
            **precision_entry(
                self._settings.precision,
                self._settings.text_precision,
                self._pipeline.precision.product,
            ),
            **memory_entry(self._settings.memory),
            **decode_entry(self._settings.decode_chunk),
            **batch_entry(self._settings.batch),
        }

    def describe(self, job: Job) -> Mapping[str, Any]:
        return {"prompt": job.item, "seed": job.seed}

    def title(self, job: Job) -> str:
        return str(job.item)[:MAX_TITLE]

    def make(self, job: Job, callback: StepCallback | None) -> Tensor:
        return self.make_together([job], callback)[0]

    def make_together(self, jobs: Sequence[Job], callback: StepCallback | None) -> Tensor:
        recipe = self._recipe
        result = self._pipeline(
            [str(job.item) for job in jobs],
            negative_prompt=recipe.negative,
            num_frames=recipe.frames,
            height=recipe.height,
            width=recipe.width,
            num_steps=recipe.steps,
            guidance_scale=recipe.guidance,
            sampler=recipe.sampler,
            seed=[job.seed for job in jobs],
            eta=recipe.eta,
            temporal_attention=recipe.temporal_attention,
            vae=recipe.vae,
            decode_chunk=self._settings.decode_chunk,
            callback=callback,
            cache=self._settings.cache,
            batch_size=len(jobs),
        )
        self._notes.tell(result.cache)
        self._compile_notes.tell()
        assert result.frames is not None
        return result.frames

    def _check_betas(self) -> None:
        """Refuse a noise schedule in a settings file that is not the model's."""
        wanted, own = self._settings.betas, self._pipeline.parts.settings
        found = (own.beta_start, own.beta_end, own.beta_schedule)
        if wanted is not None and wanted != found:
            raise IncompatibleInputsError(
                f"{self._settings.source} gives betas from {wanted[0]:g} to {wanted[1]:g}, "
                f"{wanted[2]}, but the model was trained with {found[0]:g} to {found[1]:g}, "
                f"{found[2]}. Correct the file."
            )


def check_text_settings(settings: Settings, model: str) -> None:
    """Refuse settings that a text-to-video model cannot follow.

    Raises:
        InvalidInputError, IncompatibleInputsError: saying which, and what to use.
    """
    if settings.classes:
        raise IncompatibleInputsError(
            f"--class was given, but {model} is steered by words. Use --prompt, or a "
            "class-conditional --model."
        )
    if not settings.prompts:
        raise InvalidInputError(
            f"There is nothing to show: {model} needs --prompt TEXT, or --prompts FILE with one "
            "prompt per line."
        )
    if settings.vae is not None and settings.vae not in VAE_FOLDERS:
        raise InvalidInputError(
            f"--vae is {settings.vae!r}, but a text-to-video model uses the VAE folders beside it: "
            f"give {' or '.join(VAE_FOLDERS)}."
        )
    if settings.sampler is not None:
        resolve_sampler(settings.sampler)


def make_recipe(settings: Settings, pipeline: Pipeline, model: str) -> Recipe:
    """Fill what was left out with the model's own defaults, and check the size."""
    best = pipeline.defaults
    shape = VideoShape(
        num_frames=either(settings.frames, best.num_frames),
        height=either(settings.height, best.height),
        width=either(settings.width, best.width),
    )
    return Recipe(
        model=model,
        negative=either(settings.negative, ""),
        steps=best.num_steps if settings.steps is None else step_count(settings.steps),
        guidance=either(settings.guidance, best.guidance_scale),
        sampler=resolve_sampler(either(settings.sampler, best.sampler)),
        eta=either(settings.eta, 0.0),
        frames=shape.num_frames,
        height=shape.height,
        width=shape.width,
        vae=either(settings.vae, "temporal"),
        temporal_attention=either(settings.temporal_attention, True),
    )


def either(given: T | None, otherwise: T) -> T:
    """Return what was given, or the default if nothing was."""
    return otherwise if given is None else given
