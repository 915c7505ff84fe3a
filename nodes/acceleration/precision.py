"""Latte Precision: wide layers in eight bits, or sums in float16."""

from __future__ import annotations

from typing import Any

from ...latte_core.precision.names import PRECISIONS
from ..host.base.sockets import check_choice, check_model

OFF = "off"
CHOICES = [*PRECISIONS, OFF]


class LattePrecision:
    """Less exact arithmetic for every sampler."""

    DISPLAY_NAME = "Latte Precision"
    CATEGORY = "Latte/acceleration"
    DESCRIPTION = (
        "Compute less exactly: attention and feed-forward layers in eight bits (fp8 or int8), or "
        "sums in float16. Halves the memory of a 16-bit model, and is faster on cards that "
        "multiply such numbers. The video stays close to the exact one. Works with every sampler."
    )
    SEARCH_ALIASES = [
        *("latte fp8", "latte int8", "quantize", "quantise", "quantization", "8-bit"),
        *("fp16 accumulation", "speed up", "faster", "less vram"),
    ]
    FUNCTION = "patch"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("A model of its own in the chosen precision; LoRAs work before and behind.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        precision = {
            "default": "int8",
            "tooltip": "int8: closest to the exact video; faster on NVIDIA cards from the RTX 20 "
            "series on. fp8: faster from the RTX 40 series on; on other devices fp8 is a way of "
            "storing weights, which saves memory and no time. fp16-acc: sums in float16, for "
            "float16 weights on NVIDIA cards. off: as loaded.",
        }
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model in 16 or 32 bits."}),
                "precision": (CHOICES, precision),
            }
        }

    def patch(self, model: Any, precision: str) -> tuple[Any]:
        """Check everything at the border, then make or patch a model."""
        check_model(model, "Latte Precision")
        check_choice("precision", precision, CHOICES)
        from ..host.run.precision import with_precision

        return (with_precision(model, None if precision == OFF else precision),)
