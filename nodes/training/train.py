"""Latte Train: the node that starts a training run in a process of its own."""

from __future__ import annotations

from typing import Any

from ..host.base import paths
from ..host.training.folders import DEFAULT_RUN, data_names
from ..host.training.settings import (
    MAX_BATCH,
    MAX_FRAMES,
    MAX_INTERVAL,
    MAX_RANK,
    MAX_RATE,
    MAX_SEED,
    MAX_STEPS,
    METHODS,
    PRECISIONS,
    TrainSettings,
)


class LatteTrain:
    """Starts a training and returns at once."""

    DISPLAY_NAME = "Latte Train"
    CATEGORY = "Latte/training"
    DESCRIPTION = (
        "Teach a Latte from your own videos: a LoRA that changes how things move or look, or all "
        "weights. The training runs in a process of its own while ComfyUI stays usable; closing "
        "ComfyUI ends it with a checkpoint. Run the node again to go on with a stopped training."
    )
    SEARCH_ALIASES = [
        *("latte train", "train lora", "motion lora", "fine-tune", "finetune"),
        *("lora trainer", "training", "learn"),
    ]
    FUNCTION = "train"
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("run",)
    OUTPUT_TOOLTIPS = ("The name of the run, for Latte Training Status.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List what can be trained on what, and how."""
        return {
            "required": {
                **what_to_train(),
                **how_to_train(),
                **how_to_show(),
            },
            "optional": {
                "checkpoint_activations": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "On: much less memory, but each update takes longer. For large "
                        "models on one graphics card.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Look at the run each time: one that goes on is left alone, a stopped one goes on."""
        return float("nan")

    def train(
        self,
        data: str,
        model: str,
        method: str,
        run_name: str,
        steps: int,
        batch_size: int,
        learning_rate: float,
        rank: int,
        num_frames: int,
        interval: int,
        precision: str,
        training_seed: int,
        sample_every: int,
        sample_prompts: str,
        checkpoint_activations: bool = False,
    ) -> tuple[str]:
        """Start the run, or go on with it, and return its name."""
        settings = TrainSettings(
            data=data,
            model=model,
            method=method,
            run_name=run_name,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            rank=rank,
            num_frames=num_frames,
            interval=interval,
            precision=precision,
            training_seed=training_seed,
            sample_every=sample_every,
            sample_prompts=sample_prompts,
            checkpoint_activations=checkpoint_activations,
        )
        from ..host.training.run import start

        return (start(settings),)


def what_to_train() -> dict[str, Any]:
    """Return the inputs that choose data, model, method and name."""
    return {
        "data": (
            data_names(),
            {
                "tooltip": "A folder in ComfyUI's input folder: videos, each with its captions in "
                "a .txt file of the same name, or one folder of videos for each class; or a set "
                "made by python -m latte_core prepare. Videos are prepared once, when the run "
                "starts.",
            },
        ),
        "model": (
            paths.options(paths.MODELS),
            {
                "default": paths.STARTER,
                "tooltip": "What is trained, as in Latte Model Loader. A text-to-video file needs "
                "the folders text_encoder, tokenizer and vae of Latte-1 beside it; a Latte folder "
                "in models/diffusers has them.",
            },
        ),
        "method": (
            list(METHODS),
            {
                "default": next(iter(METHODS)),
                "tooltip": "A motion LoRA changes how things move, a spatial one how frames look, "
                "both all of it. Each is a small file for Latte LoRA Loader. all weights makes a "
                "whole model and needs several times the memory.",
            },
        ),
        "run_name": (
            "STRING",
            {
                "default": DEFAULT_RUN,
                "tooltip": "Name of the run and of the file it makes. The run is kept in "
                "output/latte_training; under the same name and settings it goes on where it was.",
            },
        ),
    }


def how_to_train() -> dict[str, Any]:
    """Return the inputs that the training itself reads.

    The seed is not called seed: the page would draw another one for each queued run, and a run
    goes on under its own settings only.
    """
    whole = {"min": 1}
    return {
        "steps": (
            "INT",
            {
                **whole,
                "default": 500,
                "max": MAX_STEPS,
                "tooltip": "Updates of the weights. May be raised later: a finished run then goes "
                "on.",
            },
        ),
        "batch_size": (
            "INT",
            {
                **whole,
                "default": 4,
                "max": MAX_BATCH,
                "tooltip": "Clips in each update. Less if memory runs out.",
            },
        ),
        "learning_rate": (
            "FLOAT",
            {
                "default": 1e-4,
                "min": 0.0,
                "max": MAX_RATE,
                "step": 1e-6,
                "round": False,
                "tooltip": "How far each update goes. 0.0001 is what the authors trained with; the "
                "small starters learn with 0.001.",
            },
        ),
        "rank": (
            "INT",
            {
                **whole,
                "default": 16,
                "max": MAX_RANK,
                "tooltip": "How much a LoRA can learn; its file grows with it. all weights does "
                "not use it.",
            },
        ),
        "num_frames": (
            "INT",
            {
                **whole,
                "default": 16,
                "max": MAX_FRAMES,
                "tooltip": "Frames of a training clip; Lattes were trained on 16. Shorter videos "
                "are left out.",
            },
        ),
        "interval": (
            "INT",
            {
                **whole,
                "default": 3,
                "max": MAX_INTERVAL,
                "tooltip": "Every how many frames of a video one is taken: the authors take every "
                "third. 1 for videos that are as slow as the model's own.",
            },
        ),
        "precision": (
            PRECISIONS,
            {
                "default": PRECISIONS[0],
                "tooltip": "Of the calculations; the weights stay float32. auto is bfloat16 where "
                "the device has it, else float32.",
            },
        ),
        "training_seed": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": MAX_SEED,
                "tooltip": "Of everything that is drawn: clips, noise, the start of a LoRA.",
            },
        ),
    }


def how_to_show() -> dict[str, Any]:
    """Return the inputs that choose samples."""
    return {
        "sample_every": (
            "INT",
            {
                "default": 100,
                "min": 0,
                "max": MAX_STEPS,
                "tooltip": "Updates between samples, which Latte Training Status shows. 0 makes "
                "none.",
            },
        ),
        "sample_prompts": (
            "STRING",
            {
                "default": "",
                "multiline": True,
                "tooltip": "What the samples show: one prompt, or name of a class, a line. Empty: "
                "captions or classes of the data.",
            },
        ),
    }
