"""Noise, schedulers, guidance and the sampling loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import listing, names_from

if TYPE_CHECKING:
    from .class_guidance import forward_with_guidance
    from .guidance import (
        NoisePredictor,
        guide,
        guided_in_one_batch,
        guided_in_two_calls,
        uses_guidance,
    )
    from .loop import sample
    from .names import SAMPLER_NAMES, resolve_sampler
    from .noise import StepNoise, make_noise, make_step_noise
    from .reference import invert_reference, sample_reference
    from .reference_noise import ReferenceStream
    from .registry import make_stepper
    from .settings import ScheduleSettings

__all__ = [
    "SAMPLER_NAMES",
    "NoisePredictor",
    "ReferenceStream",
    "ScheduleSettings",
    "StepNoise",
    "forward_with_guidance",
    "guide",
    "guided_in_one_batch",
    "guided_in_two_calls",
    "invert_reference",
    "make_noise",
    "make_step_noise",
    "make_stepper",
    "resolve_sampler",
    "sample",
    "sample_reference",
    "uses_guidance",
]

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "class_guidance": ("forward_with_guidance",),
        "guidance": (
            "NoisePredictor",
            "guide",
            "guided_in_one_batch",
            "guided_in_two_calls",
            "uses_guidance",
        ),
        "loop": ("sample",),
        "names": ("SAMPLER_NAMES", "resolve_sampler"),
        "noise": ("StepNoise", "make_noise", "make_step_noise"),
        "reference": ("invert_reference", "sample_reference"),
        "reference_noise": ("ReferenceStream",),
        "registry": ("make_stepper",),
        "settings": ("ScheduleSettings",),
    },
)
