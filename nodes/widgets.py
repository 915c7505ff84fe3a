"""Widgets, and limits of widgets, that several nodes have."""

from __future__ import annotations

from typing import Any

from ..latte_core.checks import MAX_SEED
from .host.training.folders import DEFAULT_RUN

MAX_STEPS = 1000
MAX_FRAMES = 4096
MAX_SECONDS = 604_800  # a week
NOISE_ORDERS = ["comfyui", "reference"]


def seed_input(name: str) -> dict[str, Any]:
    """Describe a seed widget."""
    options = {
        "default": 0,
        "min": 0,
        "max": MAX_SEED,
        "control_after_generate": True,
        "tooltip": "The same seed gives the same noise, the same as KSampler draws.",
    }
    return {name: ("INT", options)}


def run_length() -> dict[str, Any]:
    """Describe the steps widget."""
    options = {
        "default": 50,
        "min": 1,
        "max": MAX_STEPS,
        "tooltip": "Sampling steps. 50 is the authors' choice; 20 to 30 are often enough.",
    }
    return {"steps": ("INT", options)}


def share() -> dict[str, Any]:
    """Describe the denoise widget."""
    options = {
        "default": 1.0,
        "min": 0.01,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "1 makes a new video; less keeps more of the latents that come in.",
    }
    return {"denoise": ("FLOAT", options)}


def run_input(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the input for the name of a run."""
    return ("STRING", {"default": DEFAULT_RUN, "tooltip": tooltip})
