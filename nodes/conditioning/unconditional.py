"""Latte Unconditional: conditioning inputs filled with nothing."""

from __future__ import annotations

from typing import Any

from ..host.base.conditions import no_conditioning


class LatteUnconditional:
    """Fills the conditioning inputs of samplers for models that read neither text nor classes."""

    DISPLAY_NAME = "Latte Unconditional"
    CATEGORY = "Latte/conditioning"
    DESCRIPTION = (
        "For unconditional Lattes, such as those of faces (ffs), skies (skytimelapse) and tai chi "
        "(taichi-hd): fills the positive and negative inputs of a sampler. Seed and size alone "
        "decide what is seen. A class-conditional model makes a video of any class."
    )
    SEARCH_ALIASES = ["latte unconditional", "no prompt", "ffs", "skytimelapse", "taichi"]
    FUNCTION = "make"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = (
        "For the positive input of Latte Sampler or KSampler.",
        "For the negative input; guidance has no effect without a condition.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Say that there are none."""
        return {"required": {}}

    def make(self) -> tuple[Any, Any]:
        """Return two conditionings without content."""
        return no_conditioning(), no_conditioning()
