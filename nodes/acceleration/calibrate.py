"""Latte Calibrate: find out which steps of a model can be skipped at the least cost."""

from __future__ import annotations

from typing import Any

from ...latte_core.acceleration.forecast import MAX_ORDER
from ...latte_core.checks import check_integer, check_seed
from ..host.base import paths
from ..host.base.sockets import (
    check_conditioning,
    check_guidance,
    check_latent,
    check_latent_size,
    check_model,
    check_number,
    config_of,
)
from ..widgets import MAX_STEPS, seed_input

NODE = "Latte Calibrate"
LEAST_STEPS = 4
MAX_SKIP = 100


class LatteCalibrate:
    """Measures gaps and writes cache schedules."""

    DISPLAY_NAME = "Latte Calibrate"
    CATEGORY = "Latte/acceleration"
    DESCRIPTION = (
        "Find out which steps of this model can be skipped at the least cost, and write them into "
        "a file that Latte Accelerate follows. Made once for a model and a number of steps, which "
        "takes a few hundred model calls. The schedules are for Latte Sampler with method ddim."
    )
    SEARCH_ALIASES = [
        *("latte cache schedule", "calibrate cache", "measure steps", "speed up", "faster"),
        *("lemica", "step schedule"),
    ]
    FUNCTION = "calibrate"
    OUTPUT_NODE = True
    RETURN_TYPES = ("MODEL", "STRING", "STRING")
    RETURN_NAMES = ("model", "file_name", "report")
    OUTPUT_TOOLTIPS = (
        "The same model, following the schedule nearest to half of the steps, as with mode "
        "balanced of Latte Accelerate.",
        "Name of the file in models/latte_schedules.",
        "What was measured and written, in words, for Preview Any.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        positive = "What the video to measure on shows, from Latte Text Encode, Latte Class Label "
        positive += "or Latte Unconditional. One typical prompt or class gives a good schedule."
        latent = "The size to measure on, from Empty Latte Latent; what it shows is not used."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Latte model, with its LoRAs."}),
                "positive": ("CONDITIONING", {"tooltip": positive}),
                "negative": (
                    "CONDITIONING",
                    {"tooltip": "What should not be seen, from the same node."},
                ),
                "latent_image": ("LATENT", {"tooltip": latent}),
                **seed_input("seed"),
                **run_choices(),
                "file_name": (
                    "STRING",
                    {
                        "default": "latte_ddim_50",
                        "tooltip": "Name of the file in models/latte_schedules. A file of another "
                        "model, or of another number of steps, is never overwritten.",
                    },
                ),
            },
            "optional": further_choices(),
        }

    def calibrate(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        file_name: str,
        max_skip: int = 8,
        forecast: int = 1,
    ) -> dict[str, Any]:
        """Check everything at the border, then measure, choose and write."""
        check_seed(seed)
        check_integer("steps", steps, LEAST_STEPS, MAX_STEPS)
        cfg = check_number("cfg", cfg, 0.0, 100.0)
        check_integer("max_skip", max_skip, 1, MAX_SKIP)
        check_integer("forecast", forecast, 0, MAX_ORDER)
        check_model(model, NODE)
        check_conditioning(positive, "positive", model, NODE)
        check_conditioning(negative, "negative", model, NODE)
        check_guidance(cfg, config_of(model), NODE)
        samples = check_latent(latent_image, "latent_image", NODE)
        check_latent_size(samples, "latent_image", config_of(model), NODE)
        path = paths.new_schedule(file_name)
        from ..host.run.calibration import CalibrationSettings, calibrate

        settings = CalibrationSettings(
            seed=seed, steps=steps, cfg=cfg, max_skip=max_skip, forecast=forecast, path=path
        )
        patched, report = calibrate(model, positive, negative, samples, settings)
        return {"ui": {"text": (report,)}, "result": (patched, path.name, report)}


def run_choices() -> dict[str, Any]:
    """Describe the widgets that have to be those of later runs."""
    steps = {
        "default": 50,
        "min": LEAST_STEPS,
        "max": MAX_STEPS,
        "tooltip": "Steps of the runs that will follow the schedule: it fits this number alone.",
    }
    cfg = {
        "default": 7.5,
        "min": 0.0,
        "max": 100.0,
        "step": 0.1,
        "round": 0.01,
        "tooltip": "Guidance of these runs. 1 and below switch it off.",
    }
    return {"steps": ("INT", steps), "cfg": ("FLOAT", cfg)}


def further_choices() -> dict[str, Any]:
    """Describe the widgets that most people leave as they are."""
    max_skip = {
        "default": 8,
        "min": 1,
        "max": MAX_SKIP,
        "tooltip": "Most steps skipped in a row. Every one more makes the measurement longer.",
    }
    forecast = {
        "default": 1,
        "min": 0,
        "max": MAX_ORDER,
        "tooltip": "What skipped steps are filled with: the last result (0), or a line (1) or a "
        "parabola (2) through the last ones. The schedule is then used with the same.",
    }
    return {"max_skip": ("INT", max_skip), "forecast": ("INT", forecast)}
