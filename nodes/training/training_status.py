"""Latte Training Status: watch a training that goes on."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ..host.base.sockets import check_choice
from ..host.training.folders import existing_run
from ..widgets import MAX_SECONDS, run_input

NO_WAIT, FOR_PROGRESS, TO_THE_END = "no", "for progress", "until finished"
WAITS = [NO_WAIT, FOR_PROGRESS, TO_THE_END]


class LatteTrainingStatus:
    """Shows where a training is."""

    DISPLAY_NAME = "Latte Training Status"
    CATEGORY = "Latte/training"
    DESCRIPTION = (
        "Show how a training is getting on: its losses as a picture, its newest samples, and a "
        "sentence. When it has ended, its LoRA or model is put into ComfyUI's folders, where the "
        "loaders list it."
    )
    SEARCH_ALIASES = ["training progress", "loss curve", "watch training", "training preview"]
    FUNCTION = "show"
    OUTPUT_NODE = True
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("loss", "sample", "status")
    OUTPUT_TOOLTIPS = (
        "The losses over the updates.",
        "The newest samples, one row for each prompt; a small grey picture before the first.",
        "Where the training is, in words, for Preview Any.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Describe the inputs."""
        return {
            "required": {
                "run": run_input(
                    "Name of the run: typed, or from the run output of Latte Train, which then "
                    "starts it first."
                ),
                "wait": (
                    WAITS,
                    {
                        "default": NO_WAIT,
                        "tooltip": "no shows what there is. The others wait, with a progress bar "
                        "and the newest pictures; queued prompts wait, too. Cancel ends the "
                        "waiting, not the training.",
                    },
                ),
                "seconds": (
                    "INT",
                    {
                        "default": 3600,
                        "min": 1,
                        "max": MAX_SECONDS,
                        "tooltip": "The longest time to wait.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Look again each time."""
        return float("nan")

    def show(self, run: str, wait: str, seconds: int) -> dict[str, Any]:
        """Return the pictures and the sentence."""
        check_choice("wait", wait, WAITS)
        check_integer("seconds", seconds, 1, MAX_SECONDS)
        from ..host.training import files as training_files
        from ..host.training import run as training

        folder = existing_run(run)
        if wait == NO_WAIT:
            view = training.look(folder)
        else:
            view = training.watch(
                folder,
                seconds,
                to_the_end=wait == TO_THE_END,
                preview=training_files.NewestPicture(),
            )
        loss, sample, entries = training_files.show(view)
        text = f"{training.sentence(view)} {training_files.publish(view)}".strip()
        shown = {"images": entries, "text": (text,)}
        return {"ui": shown, "result": (loss, sample, text)}
