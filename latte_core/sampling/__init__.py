"""Noise, schedulers, guidance and the sampling loop."""

from __future__ import annotations

from .class_guidance import forward_with_guidance
from .guidance import NoisePredictor, guide, guided_in_one_batch, guided_in_two_calls, uses_guidance
from .loop import sample
from .noise import StepNoise, make_noise, make_step_noise
from .reference import invert_reference, sample_reference
from .reference_noise import ReferenceStream
from .registry import SAMPLER_NAMES, make_stepper, resolve_sampler
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
