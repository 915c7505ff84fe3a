"""`calibrate`: find out which steps a model can skip, and write them into a small file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..acceleration.calibrate import SPEED_UPS, CalibrationPlan
from ..acceleration.schedule_file import ScheduleFile
from ..checkpoint.lora.writer import base_of
from ..errors import InvalidInputError
from ..memory import KEEP_ALL
from ..pipelines.calibration.calibration import CalibrationRun, Report
from ..pipelines.calibration.subjects import calibrate_classes, calibrate_text
from ..pipelines.classes.pipeline import ClassPipeline
from ..pipelines.model_folders import is_class_model, locate, locate_class_model
from ..pipelines.text.pipeline import Pipeline
from .command import Command
from .options import DTYPES, dtype_from, load_tqdm
from .sample.command import read_prompts

MOST_VIDEOS = 1000

DESCRIPTION = """\
Find out which sampling steps a model can skip at the least cost, and write the lists of steps, for
several speed-ups, into a small file that `sample --cache FILE` reads and that anyone can share.

Each gap between computed steps is tried on a few videos, which takes a while: a few hundred model
calls for each video and 50 steps. One video gives a good list; ten or twenty are as good as many.
"""
EXAMPLES = """\
examples:
  python -m latte_core calibrate starter --steps 50 --prompt "a red circle moving left" \\
      --output starter_steps.json
  python -m latte_core sample --prompt "a blue square moving up" --steps 50 \\
      --cache starter_steps.json:2 --output up.mp4

  Latte-1 on prompts of your own:
    python -m latte_core calibrate ~/models/Latte-1 --steps 50 --prompts prompts.txt \\
        --output latte1_steps.json

  A class model, with the authors' DDIM:
    python -m latte_core calibrate ucf101.pt --method ddim --steps 50 --class 3 --class 40 \\
        --output ucf101_steps.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `calibrate`."""
    add = parser.add_argument
    add("model", help="starter, class-starter, a folder or a file, as for sample --model")
    add("--output", required=True, metavar="FILE", help="file to write, .json")
    add("--steps", help="sampling steps (default: the model's own)")
    add("--method", choices=("ddpm", "ddim"), help="sampler of class models")
    add("--guidance", type=float, help="guidance scale (default: the model's own)")
    add("--prompt", action="append", help="a prompt to look at; may be given several times")
    add("--prompts", metavar="FILE", help="text file with one prompt per line")
    add("--negative", default="", metavar="TEXT", help="what to stay away from")
    add("--class", dest="classes", action="append", metavar="CLASS", help="for class models")
    add("--num", type=int, help="for unconditional models: how many videos (default: 2)")
    add("--seed", type=int, default=0, help="of the first video (default: 0)")
    add("--frames", type=int, help="length (default: what the model was trained on)")
    add("--height", type=int, help="pixels, a multiple of 16")
    add("--width", type=int, help="pixels, a multiple of 16")
    add(
        "--speed-ups",
        metavar="LIST",
        help=f"how many times fewer steps (default: {','.join(f'{one:g}' for one in SPEED_UPS)})",
    )
    add("--max-skip", type=int, default=8, help="most steps skipped in a row (default: 8)")
    add("--forecast", type=int, choices=(0, 1, 2), default=1, help="as sample --cache-forecast")
    add(
        "--look-ahead",
        type=int,
        default=1,
        help="steps computed behind each gap before videos are compared; 0 goes to the end, as the "
        "paper does, and takes many times longer (default: 1)",
    )
    add("--vae", help="of class models: image, temporal, or a folder or file")
    add("--dtype", choices=DTYPES, help="number format (default: float32 on the CPU)")
    add("--device", help="cpu, or a torch device (default: the GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the file, and print what each list costs."""
    output = Path(arguments.output)
    if output.suffix != ".json" or not output.parent.is_dir():
        raise InvalidInputError(
            f"--output is {arguments.output!r}, but it must be a .json file in a folder that "
            "exists, such as steps.json."
        )
    bar = load_tqdm()(unit="call", dynamic_ncols=True)

    def report(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        made = calibrate(arguments, report)
    finally:
        bar.close()
    made.write(output)
    print(f"Wrote {output}: {made.num_steps} calls of {made.sampler}, {made.prompts} videos.")
    for schedule in made.schedules:
        count = len(schedule.full_steps)
        speed_up = made.num_steps / count
        print(f"  {count:4d} steps in full, {speed_up:4.2f} times fewer: {schedule.psnr:5.1f} dB")
    return 0


def calibrate(arguments: argparse.Namespace, report: Report) -> ScheduleFile:
    """Open the model and calibrate it."""
    dtype = dtype_from(arguments.dtype)
    if is_class_model(arguments.model):
        refuse(arguments, ("prompt", "prompts", "negative"), "a class model")
        classes = ClassPipeline.from_pretrained(
            arguments.model,
            arguments.vae,
            dtype=dtype,
            device=arguments.device,
            memory=KEEP_ALL,
        )
        settings = make_run(arguments, locate_class_model(arguments.model)[0])
        return calibrate_classes(classes, labels_of(arguments, classes), settings, report=report)
    refuse(arguments, ("classes", "num", "method", "vae"), "a text-to-video model")
    text = Pipeline.from_pretrained(
        arguments.model, dtype=dtype, device=arguments.device, memory=KEEP_ALL
    )
    return calibrate_text(
        text,
        prompts_of(arguments),
        make_run(arguments, locate(arguments.model)[0]),
        negative_prompt=arguments.negative,
        report=report,
    )


def make_run(arguments: argparse.Namespace, weights: Path) -> CalibrationRun:
    """Return the settings that the options say; `weights` is the transformer's file or folder."""
    return CalibrationRun(
        name=Path(arguments.model).name,
        digest=base_of(weights).digest,
        steps=arguments.steps,
        method=arguments.method,
        guidance_scale=arguments.guidance,
        num_frames=arguments.frames,
        height=arguments.height,
        width=arguments.width,
        seed=arguments.seed,
        plan=CalibrationPlan(
            max_skip=arguments.max_skip,
            look_ahead=arguments.look_ahead or None,
            forecast=arguments.forecast,
        ),
        speed_ups=SPEED_UPS if arguments.speed_ups is None else numbers(arguments.speed_ups),
    )


def prompts_of(arguments: argparse.Namespace) -> Sequence[str]:
    """Return the prompts of both options.

    Raises:
        InvalidInputError: if there are none, or too many.
    """
    prompts: list[str] = list(arguments.prompt or ())
    if arguments.prompts is not None:
        prompts += read_prompts(arguments.prompts)
    if not 1 <= len(prompts) <= MOST_VIDEOS:
        raise InvalidInputError(
            f"There are {len(prompts)} prompts, but calibration looks at 1 to {MOST_VIDEOS}; ten "
            "are plenty. Give --prompt TEXT, or --prompts FILE with one prompt per line."
        )
    return prompts


def labels_of(arguments: argparse.Namespace, pipeline: ClassPipeline) -> Sequence[str | None]:
    """Return the class of each video, or None for each of an unconditional model.

    Raises:
        InvalidInputError: for classes that are missing, or that the model has not.
    """
    if pipeline.num_classes:
        refuse(arguments, ("num",), "a class-conditional model")
        if not arguments.classes:
            raise InvalidInputError(
                f"This model makes videos of {pipeline.num_classes} classes. Say which ones to "
                "look at with --class: a name, a number or random; several times for several."
            )
        return list(arguments.classes)
    refuse(arguments, ("classes",), "an unconditional model")
    count = 2 if arguments.num is None else arguments.num
    if not 1 <= count <= MOST_VIDEOS:
        raise InvalidInputError(f"--num is {count}, but it must be 1 to {MOST_VIDEOS}.")
    return [None] * count


def refuse(arguments: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """Raise InvalidInputError if an option was given that means nothing for such a model."""
    for name in names:
        if getattr(arguments, name):
            option = {"classes": "class"}.get(name, name)
            raise InvalidInputError(
                f"--{option} was given, but {Path(arguments.model).name} is {what}. Leave it out."
            )


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers above 1, separated by commas.

    Raises:
        InvalidInputError: for anything else.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(1 < one < float("inf") for one in found):
        raise InvalidInputError(
            f"--speed-ups is {text!r}, but it must be numbers above 1, such as 1.6,2,3.3."
        )
    return found


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
