"""`sample`: a video from a prompt, or one from each line of a file."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from .. import __version__
from ..errors import InvalidInputError
from ..pipeline import Pipeline
from ..sampling import SAMPLER_NAMES, resolve_sampler
from ..types import VideoShape
from ..video import check_target, enlarge, load_formats, write_video
from ..video.formats import format_for
from .command import Command
from .options import DTYPES, Progress, dtype_from

MAX_PROMPT_FILE = 16 * 2**20
MAX_BAR_TEXT = 32
T = TypeVar("T")

DESCRIPTION = """\
Make a video from a sentence.

The model is "starter" (ships with this package: coloured shapes that move, 64 x 64 pixels), a
folder in the layout of Latte-1, or a transformer file with those folders beside it. Steps,
guidance, frames and size that you leave out are the ones the model is best run with.
"""
EXAMPLES = """\
examples:
  The starter, enlarged four times:
    python -m latte_core sample --prompt "a red circle moving left" --upscale 4 --output red.mp4

  Latte-1 from a folder, another seed, a negative prompt:
    python -m latte_core sample --model ~/models/Latte-1 --seed 7 --negative "blurry" \\
        --prompt "a cat wearing sunglasses and working as a lifeguard at a pool" --output cat.mp4

  One picture:
    python -m latte_core sample --prompt "a green triangle" --frames 1 --output triangle.png

  Many prompts, one line each, written to clip-001.mp4, clip-002.mp4 ...:
    python -m latte_core sample --prompts prompts.txt --output clip.mp4
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides a video but its prompt; stored in the file's comment."""

    model: str
    negative: str
    seed: int
    steps: int
    guidance: float
    sampler: str
    frames: int
    height: int
    width: int
    vae: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sample`."""
    add = parser.add_argument
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--prompt", metavar="TEXT", help="what to show, in English")
    texts.add_argument("--prompts", metavar="FILE", help="text file with one prompt per line")
    endings = ", ".join(f".{name}" for name in load_formats())
    add("--output", required=True, metavar="FILE", help=f"file to write: {endings}")
    add("--model", default="starter", help="starter, a folder or a file (default: starter)")
    add("--negative", default="", metavar="TEXT", help="what to stay away from")
    add("--seed", type=int, default=0, help="0 to 2^64-1; same seed, same video (default: 0)")
    add("--steps", type=int, help="sampling steps; more is finer and slower")
    add("--guidance", type=float, help="how closely to follow the prompt; 1 switches it off")
    add("--sampler", metavar="NAME", help=", ".join(SAMPLER_NAMES))
    add("--frames", type=int, help="length; Latte is trained on 16, 1 makes a picture")
    add("--height", type=int, help="pixels, a multiple of 16")
    add("--width", type=int, help="pixels, a multiple of 16")
    add("--fps", type=float, help="frames per second; Latte is trained on 8")
    add(
        "--vae",
        choices=("temporal", "image"),
        default="temporal",
        help="decoder: temporal is smooth in time, image works frame by frame (default: temporal)",
    )
    add(
        "--upscale",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="enlarge the finished frames, bicubic (default: 1)",
    )
    add(
        "--dtype",
        choices=tuple(DTYPES),
        help="number format of the models (default: float32 on the CPU, bfloat16 on a GPU)",
    )
    add("--device", help="cpu, or a torch device (default: the GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    """Make and write every video that was asked for."""
    output = Path(arguments.output)
    format_for(output)
    if arguments.sampler is not None:
        resolve_sampler(arguments.sampler)
    prompts = [arguments.prompt] if arguments.prompts is None else read_prompts(arguments.prompts)
    pipeline = Pipeline.from_pretrained(
        arguments.model, dtype=dtype_from(arguments.dtype), device=arguments.device
    )
    recipe = make_recipe(arguments, pipeline)
    factor: int = arguments.upscale
    fps: float = _either(arguments.fps, pipeline.defaults.fps)
    targets = [output] if arguments.prompts is None else numbered(output, len(prompts))
    for target in targets:
        check_target(target, recipe.frames, recipe.height * factor, recipe.width * factor, fps)
    for prompt, target in zip(prompts, targets, strict=True):
        make_video(pipeline, recipe, prompt, target, factor=factor, fps=fps)
    return 0


def make_recipe(arguments: argparse.Namespace, pipeline: Pipeline) -> Recipe:
    """Fill what was left out with the model's own defaults, and check the size."""
    best = pipeline.defaults
    shape = VideoShape(
        num_frames=_either(arguments.frames, best.num_frames),
        height=_either(arguments.height, best.height),
        width=_either(arguments.width, best.width),
    )
    return Recipe(
        model=Path(arguments.model).name,
        negative=arguments.negative,
        seed=arguments.seed,
        steps=_either(arguments.steps, best.num_steps),
        guidance=_either(arguments.guidance, best.guidance_scale),
        sampler=resolve_sampler(_either(arguments.sampler, best.sampler)),
        frames=shape.num_frames,
        height=shape.height,
        width=shape.width,
        vae=arguments.vae,
    )


def _either(given: T | None, otherwise: T) -> T:
    """Return what was given, or the default if nothing was."""
    return otherwise if given is None else given


def make_video(
    pipeline: Pipeline, recipe: Recipe, prompt: str, target: Path, *, factor: int, fps: float
) -> None:
    """Make one video, show its progress, and write it."""
    progress = Progress(prompt[:MAX_BAR_TEXT])
    try:
        result = pipeline(
            prompt,
            negative_prompt=recipe.negative,
            num_frames=recipe.frames,
            height=recipe.height,
            width=recipe.width,
            num_steps=recipe.steps,
            guidance_scale=recipe.guidance,
            sampler=recipe.sampler,
            seed=recipe.seed,
            vae=recipe.vae,
            callback=progress,
        )
    finally:
        progress.close()
    assert result.frames is not None
    frames = enlarge(result.frames, factor)
    holds_metadata = format_for(target).holds_metadata
    write_video(target, frames, fps, metadata=comment(recipe, prompt) if holds_metadata else None)
    count, height, width = frames.shape[:3]
    what = "picture" if count == 1 else f"{count} frames at {fps:g} per second"
    print(f"Wrote {target}: {what}, {width} x {height} pixels.")


def comment(recipe: Recipe, prompt: str) -> str:
    """Return what is needed to make the same video again, as JSON."""
    return json.dumps({"latte": __version__, "prompt": prompt, **asdict(recipe)})


def numbered(output: Path, count: int) -> list[Path]:
    """Return clip-001.mp4, clip-002.mp4 ... for clip.mp4."""
    digits = max(3, len(str(count)))
    return [
        output.with_name(f"{output.stem}-{index + 1:0{digits}d}{output.suffix}")
        for index in range(count)
    ]


def read_prompts(name: str) -> list[str]:
    """Return the lines of a UTF-8 text file that are not blank.

    Raises:
        InvalidInputError: if it cannot be read or holds no prompt.
    """
    path = Path(name)
    try:
        if path.stat().st_size > MAX_PROMPT_FILE:
            raise InvalidInputError(f"{path.name} is too large to be a list of prompts.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"The prompts cannot be read from {path.name!r}: it must be a UTF-8 text file with "
            "one prompt per line."
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise InvalidInputError(f"{path.name} holds no prompt. Write one prompt per line.")
    return prompts


COMMAND = Command(
    name="sample",
    help="make a video from a prompt",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
