"""`sample` with a class-conditional or unconditional model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.class_names import find_class
from ...errors import IncompatibleInputsError, InvalidInputError
from ...memory import AUTO
from ...pipelines.classes.labels import RANDOM, is_random, random_labels
from ...pipelines.classes.pipeline import ClassPipeline
from ...shipped import CLASS_STARTER
from ...types import StepCallback, VideoShape
from .cache import CacheNotes, cache_entry
from .compile import CompileNotes, compile_entry
from .jobs import Job, batch_entry
from .lora import loras_entry, merge_loras
from .memory import decode_entry, memory_entry, tell_memory
from .precision import precision_entry, set_precision
from .settings import CLASSES, UNCONDITIONAL, Settings, require_kind
from .text import either

ALL = "all"


class ClassMaker:
    """Makes videos of classes, or of no class.

    Args:
        settings: of the run.
        dtype, device: as for `ClassPipeline.from_pretrained`.

    Raises:
        InvalidInputError: for a class that is missing or that there is not, or a value that cannot
            be used.
        IncompatibleInputsError: for prompts, or a class for an unconditional model.
    """

    def __init__(self, settings: Settings, dtype: torch.dtype | None, device: str | None) -> None:
        model = settings.model or CLASS_STARTER
        self._name = Path(model).name
        if settings.embedding_cache is not None:
            raise IncompatibleInputsError(
                f"--embedding-cache was given, but {self._name} has no text encoder. Leave it out."
            )
        if settings.text_precision is not None:
            raise IncompatibleInputsError(
                f"--text-precision was given, but {self._name} has no text encoder. Leave it out."
            )
        if settings.prompts or settings.negative:
            raise IncompatibleInputsError(
                f"A prompt was given, but {self._name} is no text-to-video model. Use --class for "
                "class-conditional models; unconditional ones need neither."
            )
        self._settings = settings
        self._pipeline = ClassPipeline.from_pretrained(
            model,
            settings.vae,
            settings.config,
            dtype=dtype,
            device=device,
            memory=settings.memory or AUTO,
        )
        tell_memory(self._pipeline, settings.memory)
        is_class = self._pipeline.num_classes > 0
        require_kind(settings, CLASSES if is_class else UNCONDITIONAL, self._name)
        self._items = self._find_items()
        merge_loras(self._pipeline, settings.loras)
        set_precision(self._pipeline, settings)
        self._run = self._pipeline.settle(
            settings.sampler,
            settings.steps,
            settings.guidance,
            either(settings.eta, 0.0),
            either(settings.temporal_attention, True),
        )
        self._notes = CacheNotes()
        self._compile_notes = CompileNotes(self._pipeline, settings)
        best = self._pipeline.defaults
        self._shape = VideoShape(
            num_frames=either(settings.frames, best.num_frames),
            height=either(settings.height, best.height),
            width=either(settings.width, best.width),
        )

    @property
    def items(self) -> Sequence[str | None]:
        return self._items

    @property
    def size(self) -> tuple[int, int, int]:
        return self._shape.num_frames, self._shape.height, self._shape.width

    @property
    def fps(self) -> float:
        return either(self._settings.fps, self._pipeline.defaults.fps)

    @property
    def batch(self) -> int:
        return either(self._settings.batch, 1)

    @property
    def recipe(self) -> Mapping[str, Any]:
        frames, height, width = self.size
        return {
            "model": self._name,
            **asdict(self._run),
            "frames": frames,
            "height": height,
            "width": width,
            "vae": Path(self._settings.vae or "image").name,
            **loras_entry(self._settings.loras),
            **cache_entry(self._settings.cache),
            **compile_entry(self._settings),
            **precision_entry(self._settings.precision, None, self._pipeline.precision.product),
            **memory_entry(self._settings.memory),
            **decode_entry(self._settings.decode_chunk),
            **batch_entry(self._settings.batch),
        }

    def describe(self, job: Job) -> Mapping[str, Any]:
        label = self._label(job)
        if label is None:
            return {"seed": job.seed}
        name = self._name_of(label)
        return {"class": label, **({"class_name": name} if name else {}), "seed": job.seed}

    def title(self, job: Job) -> str:
        label = self._label(job)
        if label is None:
            return f"seed {job.seed}"
        return f"{self._name_of(label) or f'class {label}'}, seed {job.seed}"

    def make(self, job: Job, callback: StepCallback | None) -> Tensor:
        return self.make_together([job], callback)[0]

    def make_together(self, jobs: Sequence[Job], callback: StepCallback | None) -> Tensor:
        frames, height, width = self.size
        labels = [label for job in jobs if (label := self._label(job)) is not None]
        result = self._pipeline(
            labels or None,
            num_frames=frames,
            height=height,
            width=width,
            method=self._run.method,
            steps=self._run.steps,
            guidance_scale=self._run.guidance_scale,
            eta=self._run.eta,
            seed=[job.seed for job in jobs],
            temporal_attention=self._run.temporal_attention,
            decode_chunk=self._settings.decode_chunk,
            callback=callback,
            cache=self._settings.cache,
            batch_size=len(jobs),
        )
        self._notes.tell(result.cache)
        self._compile_notes.tell()
        assert result.frames is not None
        return result.frames

    def _find_items(self) -> list[str | None]:
        """Return the classes that were asked for as numbers or `random`, all of them checked."""
        given, num_classes = self._settings.classes, self._pipeline.num_classes
        if not num_classes:
            if given:
                raise IncompatibleInputsError(
                    f"--class was given, but {self._name} is an unconditional model: it has no "
                    "classes. Leave --class out."
                )
            return [None]
        if not given:
            names = "a name, " if self._pipeline.class_names else ""
            raise InvalidInputError(
                f"{self._name} makes videos of {num_classes} classes. Say which with --class: "
                f"{names}a number from 0 to {num_classes - 1}, {RANDOM} or {ALL}."
            )
        items: list[str | None] = []
        for one in given:
            if one.strip().lower() == ALL:
                items += [str(number) for number in range(num_classes)]
            elif is_random(one):
                items.append(RANDOM)
            else:
                items.append(str(find_class(one, self._pipeline.class_names, num_classes)))
        return items

    def _label(self, job: Job) -> int | None:
        if job.item is None:
            return None
        if job.item == RANDOM:
            return random_labels([job.seed], 1, self._pipeline.num_classes)[0]
        return int(job.item)

    def _name_of(self, label: int) -> str:
        names = self._pipeline.class_names
        return names[label] if label < len(names) else ""
