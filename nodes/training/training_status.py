"""Latte Training Status and Latte Stop Training: watch a run that goes on, and end it."""

from __future__ import annotations

from typing import Any

from ...latte_core.checks import check_integer
from ..host.base.sockets import check_choice
from ..host.training.folders import DEFAULT_RUN, existing_run

NO_WAIT, FOR_PROGRESS, TO_THE_END = "no", "for progress", "until finished"
WAITS = [NO_WAIT, FOR_PROGRESS, TO_THE_END]
MAX_SECONDS = 604_800  # a week


def run_input(tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the input for the name of a run."""
    return ("STRING", {"default": DEFAULT_RUN, "tooltip": tooltip})


class LatteTrainingStatus:
    """Shows where a training is."""

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


class LatteStopTraining:
    """Ends a training with a checkpoint."""

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
