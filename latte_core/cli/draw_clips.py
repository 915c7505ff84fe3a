"""`draw-clips`: captioned videos of moving shapes, to practise training with."""

from __future__ import annotations

import argparse
import random
from itertools import product
from pathlib import Path

from ..checks import check_integer, check_seed
from ..errors import InvalidInputError
from ..files import atomic_write
from ..starter.drawing import (
    CLIP_FRAMES,
    COLORS,
    DIRECTIONS,
    SHAPES,
    ClipSpec,
    draw_clips,
    make_caption,
    make_clip_spec,
)
from ..video import write_video
from .command import Command
from .options import load_tqdm

FORMATS = ("gif", "mp4", "webm")
MAX_CLIPS = 100_000
MAX_CLIP_FRAMES = 1024
WORDINGS = 4
TRIES = 8  # for each wording; some kinds of clips have few

DESCRIPTION = """\
Draw videos of coloured shapes that move on a plain background, 64 x 64 pixels, each with a text of
several captions beside it, or sorted into one folder for each class. They are what the starter
models learned from, so they are quick to learn more from. A .gif of them loses next to nothing.
"""
EXAMPLES = """\
examples:
  python -m latte_core draw-clips my_videos --num 200
  python -m latte_core draw-clips left_only --num 50 --direction left \\
      --caption "a {color} {shape} standing still"
  python -m latte_core draw-clips my_classes --num 180 --by-class
  python -m latte_core prepare my_videos my_set --model starter
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `draw-clips`."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="new folder to write")
    add("--num", type=int, default=200, metavar="N", help="how many clips (default: 200)")
    add("--seed", type=int, default=0, help="same seed, same clips (default: 0)")
    add("--color", choices=tuple(COLORS), help="of the shape (default: any)")
    add("--shape", choices=tuple(SHAPES), help="(default: any)")
    add("--direction", choices=tuple(DIRECTIONS), help="it moves (default: any)")
    add("--frames", type=int, default=CLIP_FRAMES, help=f"of each (default: {CLIP_FRAMES})")
    add(
        "--caption",
        action="append",
        metavar="TEXT",
        help="say this in the place of what is shown, with {color}, {shape} and {direction} filled "
        'in, as "a {color} {shape} standing still"; may be given several times',
    )
    add("--format", choices=FORMATS, default=FORMATS[0], help=f"(default: {FORMATS[0]})")
    add(
        "--by-class",
        action="store_true",
        help='sort them into folders such as "red circle", without captions',
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw and write all clips."""
    check_seed(arguments.seed)
    check_integer("--num", arguments.num, 1, MAX_CLIPS)
    check_integer("--frames", arguments.frames, 1, MAX_CLIP_FRAMES)
    if arguments.caption and arguments.by_class:
        raise InvalidInputError("Clips sorted by class have no captions: leave --caption out.")
    for text in arguments.caption or ():
        fill_caption(text, make_clip_spec(random.Random(0)))  # refused before anything is written
    folder = _make_folder(Path(arguments.folder))
    looks = list(
        product(
            [arguments.color] if arguments.color else COLORS,
            [arguments.shape] if arguments.shape else SHAPES,
        )
    )
    bar = load_tqdm()(range(arguments.num), desc="clips", dynamic_ncols=True)
    for number in bar:
        _write_clip(folder, number, looks, arguments)
    print(
        f"{arguments.num} clips are in {folder}. Go on with: "
        f"python -m latte_core prepare {folder} {folder.name}_set --model "
        f"{'class-starter' if arguments.by_class else 'starter'}"
    )
    return 0


def _make_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(
            f"{folder.name} is there already and is not an empty folder. Choose a new one."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"The folder {folder.name} cannot be made: {error.strerror}. Choose another place."
        ) from error
    return folder


def _write_clip(
    folder: Path, number: int, looks: list[tuple[str, str]], arguments: argparse.Namespace
) -> None:
    """Write clip `number` with its captions, or into the folder of its class."""
    rng = random.Random(f"{arguments.seed}-drawn-{number}")
    color, shape = arguments.color, arguments.shape
    if arguments.by_class:  # classes take turns, so that none is rare
        color, shape = looks[number % len(looks)]
    spec = make_clip_spec(rng, color=color, shape=shape, direction=arguments.direction)
    frames = draw_clips([spec], arguments.frames)[0].movedim(1, -1)  # F side side 3
    place = folder / f"{color} {shape}" if arguments.by_class else folder
    write_video(place / f"{number:05d}.{arguments.format}", frames)
    if not arguments.by_class:
        given = [fill_caption(text, spec) for text in arguments.caption or ()]
        captions = given or [make_caption(spec, rng) for _ in range(WORDINGS * TRIES)]
        listed = [*dict.fromkeys(captions)] if given else [*dict.fromkeys(captions)][:WORDINGS]
        with atomic_write(place / f"{number:05d}.txt") as partial:
            partial.write_text("\n".join(listed) + "\n", encoding="utf-8")


def fill_caption(text: str, spec: ClipSpec) -> str:
    """Return a caption of the user's with the names of what a clip shows.

    Raises:
        InvalidInputError: for another name in braces.
    """
    named = {"{color}": spec.color, "{shape}": spec.shape, "{direction}": spec.direction}
    filled = text
    for name, value in named.items():
        filled = filled.replace(name, value)
    is_text = filled == filled.encode("utf-8", "ignore").decode("utf-8")  # no half of a pair
    if not filled.strip() or "{" in filled or "\n" in filled or not is_text:
        raise InvalidInputError(
            f"--caption {text!r} cannot be filled in. It is one line of text, which may hold "
            f"{', '.join(named)} and no other braces."
        )
    return filled


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
