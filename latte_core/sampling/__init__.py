"""Noise, schedulers, guidance and the sampling loop."""

from __future__ import annotations

from .guidance import NoisePredictor, guide, guided_in_one_batch, guided_in_two_calls, uses_guidance
from .loop import sample
from .noise import StepNoise, make_noise, make_step_noise
from .registry import SAMPLER_NAMES, make_stepper, resolve_sampler
from .settings import ScheduleSettings

__all__ = [
    "SAMPLER_NAMES",
    "NoisePredictor",
    "ScheduleSettings",
    "StepNoise",
    "guide",
    "guided_in_one_batch",
    "guided_in_two_calls",
    "make_noise",
    "make_step_noise",
    "make_stepper",
    "resolve_sampler",
    "sample",
    "uses_guidance",
]
