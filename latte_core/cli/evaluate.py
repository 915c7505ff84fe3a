"""`evaluate`: how well a starter does what it is told, measured on its own videos."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..class_parts import is_class_model
from ..class_pipeline import ClassPipeline
from ..errors import InvalidInputError
from ..files import atomic_write
from ..pipeline import Pipeline
from ..training.starter import add_scores
from ..training.starter_scores import (
    Scores,
    score_class_starter,
    score_starter,
    total_class_clips,
    total_clips,
)
from .command import Command
from .options import load_tqdm

MOST_SEEDS = 1000

DESCRIPTION = """\
Measure a starter model: make a video for every colour, shape and direction, or for every class, and
tell from the pixels what it shows. Prints the shares that are right, with and without guidance,
and, for prompts, what the negative prompt "red" does.
"""
EXAMPLES = """\
examples:
  python -m latte_core evaluate starter
  python -m latte_core evaluate class-starter
  python -m latte_core evaluate path/to/my_starter --seeds 4 --json scores.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    add = parser.add_argument
    add("model", help="starter, class-starter, or a folder made by train-starter")
    add("--seeds", type=int, default=2, help="videos of each prompt (default: 2)")
    add("--steps", type=int, help="sampling steps (default: the model's own)")
    add("--guidance", type=float, help="guidance scale (default: the model's own)")
    add("--json", metavar="FILE", help="also write the scores to this file")
    add("--card", action="store_true", help="also write them into card.json of a model's folder")


class ClipMaker:
    """Makes the videos that are measured, one pipeline for all."""

    def __init__(self, pipeline: Pipeline, num_steps: int, sampler: str) -> None:
        self.pipeline = pipeline
        self.num_steps = num_steps
        self.sampler = sampler

    def __call__(
        self, prompts: Sequence[str], negatives: Sequence[str], seeds: Sequence[int], scale: float
    ) -> Tensor:
        """Return frames (N, F, H, W, 3) in [0, 1]."""
        frames = self.pipeline(
            list(prompts),
            negative_prompt=list(negatives),
            num_frames=self.pipeline.defaults.num_frames,
            seed=list(seeds),
            num_steps=self.num_steps,
            guidance_scale=scale,
            sampler=self.sampler,
        ).frames
        return torch.empty(0) if frames is None else frames


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    if not 1 <= arguments.seeds <= MOST_SEEDS:
        raise InvalidInputError(f"--seeds is {arguments.seeds}, but it must be 1 to {MOST_SEEDS}.")
    values = measure_classes(arguments) if is_class_model(arguments.model) else measure(arguments)
    if arguments.card:
        add_scores(Path(arguments.model), values)
    if arguments.json is not None:
        with atomic_write(Path(arguments.json)) as partial:
            partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a text starter, print its scores and return them with the settings of the runs."""
    pipeline = Pipeline.from_pretrained(arguments.model)
    best = pipeline.defaults
    steps = best.num_steps if arguments.steps is None else arguments.steps
    scale = best.guidance_scale if arguments.guidance is None else arguments.guidance
    with progress_bar(total_clips(arguments.seeds)) as bar:
        make_clips = ClipMaker(pipeline, steps, best.sampler)
        scores = score_starter(make_clips, scale, num_seeds=arguments.seeds, report=bar.update)
    print_scores(scores, steps, scale)
    return {**scores.to_dict(), "num_steps": steps, "guidance_scale": scale}


def measure_classes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a class starter, print its scores and return them with the settings of the runs."""
    pipeline = ClassPipeline.from_pretrained(arguments.model)
    best = pipeline.defaults
    steps = best.steps if arguments.steps is None else str(arguments.steps)
    scale = best.guidance_scale if arguments.guidance is None else arguments.guidance

    def make_clips(names: Sequence[str], seeds: Sequence[int], guidance_scale: float) -> Tensor:
        frames = pipeline(
            list(names), seed=list(seeds), steps=steps, guidance_scale=guidance_scale
        ).frames
        return torch.empty(0) if frames is None else frames

    with progress_bar(total_class_clips(arguments.seeds)) as bar:
        scores = score_class_starter(
            make_clips, scale, num_seeds=arguments.seeds, report=bar.update
        )
    print(f"{scores.clips} videos, {steps} steps, guidance {scale:g}; in brackets without guidance")
    print(f"  colour right      {scores.color:7.1%}  ({scores.color_unguided:.1%})")
    print(f"  shape right       {scores.shape:7.1%}  ({scores.shape_unguided:.1%})")
    print(f"  background change {scores.background_flicker:7.2f}  of 255, frame to frame")
    return {**scores.to_dict(), "steps": steps, "guidance_scale": scale}


def progress_bar(total: int) -> Any:
    """Return a bar over clips."""
    return load_tqdm()(total=total, unit="clip", dynamic_ncols=True)


def print_scores(scores: Scores, steps: int, scale: float) -> None:
    """Print the scores as a small table."""
    print(f"{scores.clips} videos, {steps} steps, guidance {scale:g}; in brackets without guidance")
    print(f"  colour right      {scores.color:7.1%}  ({scores.color_unguided:.1%})")
    print(f"  direction right   {scores.direction:7.1%}  ({scores.direction_unguided:.1%})")
    print(f"  shape right       {scores.shape:7.1%}")
    print(f"  background change {scores.background_flicker:7.2f}  of 255, frame to frame")
    print('"a square moving left":')
    print(f"  red               {scores.red_without_negative:7.1%}")
    print(f"  red, negative red {scores.red_with_negative:7.1%}")


COMMAND = Command(
    name="evaluate",
    help="measure how well a starter does what it is told",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
