"""Latte Scheduler: Latte's own noise levels for SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ..host.base.sockets import check_model, check_number
from ..widgets import MAX_STEPS, run_length, share


class LatteScheduler:
    """The noise levels of the authors' samplers."""

    DISPLAY_NAME = "Latte Scheduler"
    CATEGORY = "Latte/sampling"
    DESCRIPTION = (
        "Latte's own noise levels for SamplerCustomAdvanced; no stock scheduler gives them. For 50 "
        "steps: 980, 960, ... 0 with text-to-video models, 999, 979, ... 20, 0 with "
        "class-conditional and unconditional ones."
    )
    SEARCH_ALIASES = ["latte sigmas", "ddim schedule", "leading", "scheduler", "basic scheduler"]
    FUNCTION = "make"
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)
    OUTPUT_TOOLTIPS = ("Noise levels, high to low, for SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        model = {"model": ("MODEL", {"tooltip": "A Latte model; its noise schedule is used."})}
        return {"required": {**model, **run_length(), **share()}}

    def make(self, model: Any, steps: int, denoise: float) -> tuple[Any]:
        """Return (steps + 1,) sigmas that end in 0."""
        check_model(model, "Latte Scheduler")
        check_integer("steps", steps, 1, MAX_STEPS)
        denoise = check_number("denoise", denoise, 0.01, 1.0)
        from ..host.run.sampling import latte_sigmas

        return (latte_sigmas(model, steps, denoise),)
