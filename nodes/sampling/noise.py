"""Latte Noise: start noise for SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_seed
from ..host.base.sockets import check_choice
from ..widgets import NOISE_ORDERS, seed_input


class LatteNoise:
    """Start noise with a choice of drawing order."""

    DISPLAY_NAME = "Latte Noise"
    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Start noise for SamplerCustomAdvanced: in KSampler's order, or in the order of the "
        "authors' pipeline, to compare seeds with it."
    )
    SEARCH_ALIASES = ["latte seed", "random noise", "noise order", "reference noise"]
    FUNCTION = "make"
    RETURN_TYPES = ("NOISE",)
    RETURN_NAMES = ("noise",)
    OUTPUT_TOOLTIPS = ("A noise source for SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        order = {
            "default": "comfyui",
            "tooltip": "comfyui: what KSampler draws for this seed. reference: what the authors' "
            "pipeline draws.",
        }
        return {"required": {**seed_input("noise_seed"), "noise_order": (NOISE_ORDERS, order)}}

    def make(self, noise_seed: int, noise_order: str) -> tuple[Any]:
        """Return a noise source."""
        check_seed(noise_seed)
        check_choice("noise_order", noise_order, NOISE_ORDERS)
        from ..host.run.sampling import LatteNoiseSource

        return (LatteNoiseSource(noise_seed, noise_order),)
