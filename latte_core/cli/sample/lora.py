"""`--lora` of `sample`: how it is written, what it does, and what the recipe says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...pipelines.classes.pipeline import ClassPipeline
    from ...pipelines.text.pipeline import Pipeline

Loras = Sequence[tuple[str, float]]


def lora_of(text: str) -> tuple[str, float]:
    """Return path and strength of a LoRA given as FILE or FILE:STRENGTH."""
    path, _, strength = text.rpartition(":")
    if not path or Path(text).exists():
        return text, 1.0
    try:
        return path, float(strength)
    except ValueError:  # the colon belongs to the path
        return text, 1.0


def merge_loras(pipeline: Pipeline | ClassPipeline, loras: Loras) -> None:
    """Merge all of them, and print what each does.

    Raises:
        InvalidInputError, CheckpointError: for the first that cannot be used.
    """
    for path, strength in loras:
        patch = pipeline.load_lora(path, strength)
        kept = len(patch.unchanged_layers)
        note = f", {kept} of them unchanged" if kept else ""
        print(f"LoRA {Path(path).name}: {patch.num_layers} layers{note}, strength {strength:g}.")


def loras_entry(loras: Loras) -> Mapping[str, Any]:
    """Return what a recipe says of them: nothing if there are none."""
    if not loras:
        return {}
    return {"loras": [f"{Path(path).name}:{strength:g}" for path, strength in loras]}
