"""Latte Accelerate: compute fewer of a run's steps, with one dial."""

from __future__ import annotations

from typing import Any

from ...latte_core.acceleration.help import (
    highest_number,
    offered,
    offered_help,
    usual_numbers,
)
from ...latte_core.acceleration.plans import GuidancePlan
from ...latte_core.acceleration.schedule_file import ScheduleFile
from ...latte_core.acceleration.settings import DIAL, NONE, STATIC, CacheSettings, with_options
from ...latte_core.errors import IncompatibleInputsError
from ..host.base import paths
from ..host.base.sockets import check_choice, check_model, check_number

OFF = "off"
AUTO = "auto"
MODES = [*DIAL, OFF]
FORECASTS = [AUTO, "0", "1", "2"]


class LatteAccelerate:
    """Step caching for every sampler."""

    DISPLAY_NAME = "Latte Accelerate"
    CATEGORY = "Latte/acceleration"
    DESCRIPTION = (
        "Make videos faster by computing fewer of a run's steps in full: the others use again what "
        "the blocks added before. The video changes a little; one dial says how much. Works with "
        "Latte Sampler, KSampler and SamplerCustomAdvanced."
    )
    SEARCH_ALIASES = [
        *("latte cache", "teacache", "speed up", "faster", "step cache", "first block cache"),
        *("pab", "fbcache", "residual cache"),
    ]
    FUNCTION = "patch"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The same model; every run with it has a cache of its own.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        mode = {
            "default": "balanced",
            "tooltip": "quality computes about 5 of 8 steps, balanced every second, fast 3 of 10. "
            "Measured on the starter at 50 steps, against the uncached video: 52, 45 and 33 dB by "
            "rule, 59, 51 and 44 dB with its schedule. off: no cache.",
        }
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model, with its LoRAs."}),
                "mode": (MODES, mode),
            },
            "optional": further_choices(),
        }

    @classmethod
    def IS_CHANGED(cls, schedule: str = AUTO, **_: Any) -> str:
        """Read again when the file was replaced."""
        return "" if schedule == AUTO else paths.schedule_fingerprint(schedule)

    def patch(
        self,
        model: Any,
        mode: str,
        policy: str = AUTO,
        threshold: float = 0.0,
        forecast: str = AUTO,
        schedule: str = AUTO,
        guidance_cache: bool = False,
    ) -> tuple[Any]:
        """Check everything at the border, then patch a copy of the model."""
        check_model(model, "Latte Accelerate")
        settings = settings_of(mode, policy, threshold, forecast, schedule, guidance_cache)
        from ..host.run.acceleration import accelerate

        return (accelerate(model, settings),)


def further_choices() -> dict[str, Any]:
    """Describe the widgets that most people leave as they are."""
    policy = {
        "default": AUTO,
        "tooltip": f"auto: a list of steps, from mode. {offered_help('mode')}",
    }
    threshold = {
        "default": 0.0,
        "min": 0.0,
        "max": highest_number(),
        "step": 0.01,
        "tooltip": f"For {usual_numbers()}: higher skips more and changes the video more. "
        "0: their own.",
    }
    forecast = {
        "default": AUTO,
        "tooltip": "Skipped steps repeat the last result (0), or continue a line (1) or a parabola "
        "(2) through the last ones. Each step up keeps one more result in memory. auto: 1, or what "
        "the schedule was made for.",
    }
    schedule = {
        "default": AUTO,
        "tooltip": "auto: the model's own lists, if it came with some for the sampler, steps and "
        "noise levels of the run (the starter: Latte Sampler, ddim, 20 or 50 steps); else steps "
        "spread by rule. A file lists the best steps for one model, sampler and number of steps; "
        "mode chooses among its lists. Latte Calibrate writes files into models/latte_schedules.",
    }
    guidance_cache = {
        "default": False,
        "tooltip": "On: from a third of the run, most steps compute the positive prompt alone, and "
        "the negative's part is rebuilt from its last difference. Adds to any mode, also to off. "
        "No effect at cfg 1.",
    }
    return {
        "policy": ([AUTO, *offered()], policy),
        "threshold": ("FLOAT", threshold),
        "forecast": (FORECASTS, forecast),
        "schedule": ([AUTO, *paths.schedules()], schedule),
        "guidance_cache": ("BOOLEAN", guidance_cache),
    }


def settings_of(
    mode: str,
    policy: str,
    threshold: float,
    forecast: str,
    schedule: str,
    guidance_cache: bool = False,
) -> CacheSettings | None:
    """Return what the widgets say, or None for no cache.

    Raises:
        InvalidInputError: for a value that no widget offers.
        IncompatibleInputsError: for a schedule beside a policy that follows none.
    """
    check_choice("mode", mode, MODES)
    check_choice("policy", policy, [AUTO, *offered()])
    check_choice("forecast", forecast, FORECASTS)
    threshold = check_number("threshold", threshold, 0.0, highest_number())
    if mode == OFF:
        return CacheSettings(policy=NONE, guidance=GuidancePlan()) if guidance_cache else None
    file = None if schedule == AUTO else paths.locate_schedule(schedule)
    if file is not None and policy != AUTO:
        raise IncompatibleInputsError(
            f"schedule of Latte Accelerate is {schedule!r}, a list of steps, but policy {policy} "
            "decides at each step. Set policy to auto, or schedule to auto."
        )
    settings = CacheSettings(
        policy=STATIC if policy == AUTO else policy,
        speed_up=DIAL[mode],
        threshold=threshold or None,
        schedules=None if file is None else ScheduleFile.read(file),
    )
    order = None if forecast == AUTO else int(forecast)
    return with_options(settings, forecast=order, guidance=guidance_cache)
