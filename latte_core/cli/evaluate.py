"""`evaluate`: how well a starter does what it is told, or how close videos come to real ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInputError
from ..pipelines.classes.pipeline import ClassPipeline
from ..pipelines.model_folders import is_class_model
from ..pipelines.text.pipeline import Pipeline
from ..starter.files import add_scores
from ..starter.scores import score_class_starter, score_starter, total_class_clips, total_clips
from .command import Command
from .evaluate_metrics import add_metric_options, refuse_metric_options, run_metric
from .evaluate_starter import print_scores
from .options import check_json, load_tqdm, write_json

MOST_SEEDS = 1000

DESCRIPTION = """\
Measure a starter model: make a video for every colour, shape and direction, or for every class, and
tell from the pixels what it shows. Prints the shares that are right, with and without guidance,
and, for prompts, what the negative prompt "red" does.

Or, with --metric, compare made videos with real ones: FVD, FID, KID and the Inception Score. Prints
the number, and below it in one line how it was measured. docs/evaluation.md tells more. Videos that
cannot be read are left out and counted; the exit code is 3 then.
"""
EXAMPLES = """\
examples:
  python -m latte_core evaluate starter
  python -m latte_core evaluate class-starter
  python -m latte_core evaluate path/to/my_starter --seeds 4 --json scores.json

  FVD of a folder of made videos, as the authors measure it; their FFS data set has 256 pixels:
    python -m latte_core evaluate --metric fvd --real ffs_frames/train --fake faces \\
        --features i3d.safetensors --json fvd.json

  The same for Taichi-HD, whose model was trained on every sixth frame:
    python -m latte_core evaluate --metric fvd --interval 6 --real taichi_frames --fake taichi \\
        --features i3d.safetensors

  Inception Score of videos that a model makes on the spot:
    python -m latte_core evaluate --metric isv --model ucf101.pt --class random \\
        --features c3d.safetensors

  Two starters side by side, with nothing downloaded; lower is closer to the real videos:
    python -m latte_core evaluate --metric fvd --features random --num 128 --interval 1 \\
        --real clips --model class-starter --class all
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    add = parser.add_argument
    add("model", nargs="?", help="starter, class-starter, or a folder made by train-starter")
    add("--seeds", type=int, default=2, help="videos of each prompt (default: 2)")
    add("--steps", type=int, help="sampling steps (default: the model's own)")
    add("--guidance", type=float, help="guidance scale (default: the model's own)")
    add("--json", metavar="FILE", help="also write the scores to this file")
    add("--card", action="store_true", help="also write them into card.json of a model's folder")
    add_metric_options(parser)


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
    check_json(arguments.json)
    if arguments.metric is not None:
        return run_metric(arguments)
    refuse_metric_options(arguments)
    if not 1 <= arguments.seeds <= MOST_SEEDS:
        raise InvalidInputError(f"--seeds is {arguments.seeds}, but it must be 1 to {MOST_SEEDS}.")
    values = measure_classes(arguments) if is_class_model(arguments.model) else measure(arguments)
    if arguments.card:
        add_scores(Path(arguments.model), values)
    if arguments.json is not None:
        write_json(arguments.json, values)
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


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
