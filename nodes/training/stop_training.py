"""Latte Stop Training: end a training early, with a checkpoint."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ..host.training.folders import existing_run
from ..widgets import MAX_SECONDS, run_input


class LatteStopTraining:
    """Ends a training with a checkpoint."""

    DISPLAY_NAME = "Latte Stop Training"
    CATEGORY = "Latte/training"
    DESCRIPTION = (
        "End a training early, with a checkpoint and a LoRA or model of what it has learned so "
        "far. Latte Train goes on with it later, under the same name and settings."
    )
    SEARCH_ALIASES = ["stop training", "end training", "cancel training", "pause training"]
    FUNCTION = "stop"
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("status",)
    OUTPUT_TOOLTIPS = ("How the training ended, in words, for Preview Any.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        return {
            "required": {
                "run": run_input(
                    "Name of the run. Type it: connected to Latte Train, this node would start the "
                    "run first."
                ),
                "seconds": (
                    "INT",
                    {
                        "default": 60,
                        "min": 0,
                        "max": MAX_SECONDS,
                        "tooltip": "How long to wait for the checkpoint. The training ends in any "
                        "case, after the update it is in.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Ask again each time."""
        return float("nan")

    def stop(self, run: str, seconds: int) -> dict[str, Any]:
        """Ask the run to end, wait for it, and say how it ended."""
        check_integer("seconds", seconds, 0, MAX_SECONDS)
        from ..host.training import files as training_files
        from ..host.training import run as training

        view = training.stop(existing_run(run), seconds)
        late = f" It ends after the update it is in; {seconds} s were not enough to see it."
        end = late if view.is_alive else f" {training_files.publish(view)}"
        text = f"{training.sentence(view)}{end}".strip()
        return {"ui": {"text": (text,)}, "result": (text,)}
