"""`sample`: videos from a prompt or of a class, one or many."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...acceleration.help import listed, measuring
from ...errors import InvalidInputError
from ...sampling import SAMPLER_NAMES
from ...shipped import CLASS_STARTER, STARTER
from ...text_files import read_text
from ...video import load_formats
from ...video.formats import format_for
from ..command import Command
from ..options import DTYPES
from .cache import add_cache_options
from .compile import add_compile_options
from .jobs import FRAMES, check_numbers, check_text_run
from .memory import add_memory_options
from .precision import add_precision_options
from .reference_settings import read_settings
from .settings import PRESETS, Settings, from_arguments, preset, require_model
from .share import Share
from .targets import known_targets, require_free

MAX_PROMPT_FILE = 16 * 2**20

DESCRIPTION = """\
Make videos from a sentence, of a class, or of the one thing that a model was trained on.

The model is "starter" (ships with this package: coloured shapes that move, 64 x 64 pixels),
"class-starter" (the same shapes by class), a folder in the layout of Latte-1, or a file such as
ucf101.pt with a VAE folder beside it. Steps, guidance, frames and size that you leave out are the
ones the model is best run with.
"""
EXAMPLES = """\
examples:
  The starter, enlarged four times:
    python -m latte_core sample --prompt "a red circle moving left" --upscale 4 --output red.mp4

  Latte-1 from a folder, another seed, a negative prompt:
    python -m latte_core sample --model ~/models/Latte-1 --seed 7 --negative "blurry" \\
        --prompt "a cat wearing sunglasses and working as a lifeguard at a pool" --output cat.mp4

  One picture:
    python -m latte_core sample --preset t2i --prompt "a green triangle" --output triangle.png

  Many prompts, one line each, written to clip-001.mp4, clip-002.mp4 ...:
    python -m latte_core sample --prompts prompts.txt --output clip.mp4

  Eight videos of a class, side by side, with the authors' settings:
    python -m latte_core sample --model ucf101.pt --preset ucf101 --class "Playing Guitar" \\
        --num 8 --grid --output guitar.mp4

  With a LoRA at four fifths of its strength:
    python -m latte_core sample --prompt "a red circle jumping" --lora jumping.safetensors:0.8 \\
        --output jumping.mp4

  With half of the steps computed, and the other half taken from a cache:
    python -m latte_core sample --prompt "a blue square moving up" --cache balanced \\
        --output up.mp4

  2048 faces; the same command goes on where it was stopped:
    python -m latte_core sample --model ffs.pt --config ffs_sample.yaml \\
        --num-videos 2048 --output-dir faces

  The same from four processes, without loss, to be measured with `evaluate`:
    torchrun --nproc-per-node 4 -m latte_core sample --model ffs.pt --config ffs_sample.yaml \\
        --num-videos 2048 --output-dir faces --format frames
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sample`."""
    _add_contents(parser)
    _add_model(parser)
    _add_quality(parser)
    add_compile_options(parser)
    add_cache_options(parser)
    add_precision_options(parser)
    add_memory_options(parser)
    _add_output(parser)


def _add_contents(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to show")
    texts = group.add_mutually_exclusive_group()
    texts.add_argument("--prompt", metavar="TEXT", help="for text-to-video models, in English")
    texts.add_argument("--prompts", metavar="FILE", help="text file with one prompt per line")
    add = group.add_argument
    add("--negative", metavar="TEXT", help="what to stay away from")
    add(
        "--class",
        dest="classes",
        action="append",
        metavar="CLASS",
        help="for class models: a name, a number, random or all; may be given several times",
    )
    add("--seed", type=int, help="0 to 2^64-1; same seed, same video (default: 0)")
    add(
        "--num",
        "--num-videos",
        type=int,
        metavar="N",
        help="videos in all; prompts or classes take turns, the seed rises by one each round",
    )
    add(
        "--batch",
        type=int,
        metavar="N",
        help="videos made together (default: 1): faster where small ones leave the device idle, "
        "for N times the memory; they differ by rounding from videos made one by one, and under "
        f"--cache {listed(measuring(), 'or')} by the steps that another of them needs",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", help=f"{STARTER}, {CLASS_STARTER}, a folder or a file")
    add(
        "--lora",
        action="append",
        metavar="FILE[:STRENGTH]",
        help="a LoRA for this model (default strength: 1); may be given several times",
    )
    add("--vae", help="image (frame by frame), temporal (smooth in time), or a folder or file")
    add("--dtype", choices=DTYPES, help="number format (default: float32 on the CPU)")
    add("--device", help="cpu, or a torch device (default: the GPU if there is one)")


def _add_quality(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to make it")
    files = group.add_mutually_exclusive_group()
    files.add_argument("--preset", choices=tuple(PRESETS), help="the authors' own settings")
    files.add_argument("--config", metavar="FILE", help="a settings file of the authors (yaml)")
    add = group.add_argument
    add("--steps", help='sampling steps; class models also take "10,15,20" or "ddim50"')
    add("--guidance", type=float, help="how closely to follow prompt or class; 1 is off")
    add(
        "--sampler",
        "--method",
        metavar="NAME",
        help=f"{', '.join(SAMPLER_NAMES)}; class models: ddpm, ddim",
    )
    add("--eta", type=float, help="noise per step of ddim, 0 to 1 (default: 0)")
    add("--frames", type=int, help="length; Latte is trained on 16, 1 makes a picture")
    add("--height", type=int, help="pixels, a multiple of 16")
    add("--width", type=int, help="pixels, a multiple of 16")
    add(
        "--temporal-attention",
        action=argparse.BooleanOptionalAction,
        help="off makes every frame a picture of its own",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it goes")
    targets = group.add_mutually_exclusive_group(required=True)
    endings = ", ".join(f".{name}" for name in load_formats())
    targets.add_argument("--output", metavar="FILE", help=f"file to write: {endings}")
    targets.add_argument(
        "--output-dir", metavar="DIR", help="folder to fill; the same command goes on filling it"
    )
    add = group.add_argument
    add(
        "--overwrite",
        action="store_true",
        help="replace files of --output that are there already (on a terminal it is asked)",
    )
    add(
        "--format",
        choices=(*load_formats(), FRAMES),
        help="of files in --output-dir (default: mp4); frames writes folders of lossless pictures",
    )
    add(
        "--rank",
        type=int,
        help="number of this process, from 0, of several that fill --output-dir together",
    )
    add("--world", type=int, help="how many processes there are; torchrun and accelerate say both")
    add(
        "--grid",
        nargs="?",
        type=int,
        const=0,
        metavar="COLUMNS",
        help="write all videos side by side into one file",
    )
    add("--fps", type=float, help="frames per second; Latte is trained on 8")
    add(
        "--upscale",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="enlarge the finished frames, bicubic (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make and write every video that was asked for."""
    check_output(arguments)
    check_numbers(arguments)
    share = Share.of(arguments.rank, arguments.world, arguments.output_dir)
    settings = gather(arguments)
    check_numbers(settings)
    check_text_run(settings)
    check_contents(arguments, settings)
    require_free(known_targets(settings, arguments) or (), overwrite=arguments.overwrite)
    from .run import make_videos  # imports torch, for arguments that can be used

    make_videos(settings, arguments, share)
    return 0


def check_output(arguments: argparse.Namespace) -> None:
    """Refuse options about files that do not go together.

    Raises:
        InvalidInputError: saying which.
    """
    if arguments.output is not None:
        format_for(Path(arguments.output))
        if arguments.format is not None:
            raise InvalidInputError(
                "--format is for --output-dir; the name after --output says the format itself."
            )
    elif arguments.overwrite:
        raise InvalidInputError(
            "--overwrite is for --output; a folder keeps what it holds and is gone on with. Name "
            "another --output-dir to make everything again."
        )
    elif arguments.grid is not None:
        raise InvalidInputError(
            "--grid writes one file, so it needs --output FILE instead of --output-dir."
        )


def check_contents(arguments: argparse.Namespace, settings: Settings) -> None:
    """Refuse frames and a rate that the files cannot hold.

    Raises:
        InvalidInputError: saying what they can.
    """
    ending = arguments.format or ("png" if settings.frames == 1 else "mp4")
    is_folder = ending == FRAMES  # of pictures, each a frame
    chosen = format_for(Path(arguments.output or ("x.png" if is_folder else f"x.{ending}")))
    if settings.frames is not None and not is_folder:
        chosen.check_frames(settings.frames)
    if settings.fps is not None:
        chosen.check_rate(settings.fps)


def gather(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a run: options first, then the preset or the settings file.

    Raises:
        InvalidInputError: for a file that cannot be used, or settings without the model they need.
    """
    prompts = () if arguments.prompt is None else (arguments.prompt,)
    if arguments.prompts is not None:
        prompts = read_prompts(arguments.prompts)
    given = from_arguments(arguments, prompts)
    if arguments.preset is not None:
        given = given.over(preset(arguments.preset))
    if arguments.config is not None:
        given = given.over(read_settings(Path(arguments.config)))
    require_model(given)
    return given


def read_prompts(name: str) -> tuple[str, ...]:
    """Return the lines of a text file that are not blank.

    Raises:
        InvalidInputError: if it cannot be read or holds no prompt.
    """
    path = Path(name)
    try:
        text = read_text(path, most=MAX_PROMPT_FILE)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"The prompts, one on each line, cannot be read. {error}"
        ) from error
    prompts = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not prompts:
        raise InvalidInputError(f"{path.name} holds no prompt. Write one prompt per line.")
    return prompts


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
