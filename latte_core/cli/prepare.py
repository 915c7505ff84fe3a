"""`prepare`: a folder of videos to a set of latents and text features that training reads."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ..data.frame_sampling import STYLES
from ..data.layouts import LAYOUTS
from ..data.prepare import PrepareSettings, PrepareStep, prepare_set
from ..data.sets import LatentSet
from ..data.sets.format import DTYPES as STORED_DTYPES
from ..errors import InvalidInputError
from .command import LEFT_OUT, Command
from .options import DTYPES, dtype_from, load_tqdm

LISTED_SKIPS = 10
DEFAULTS = PrepareSettings()
SIZE = re.compile(r"(\d+)(?:x(\d+))?")

DESCRIPTION = f"""\
Turn a folder of videos into a prepared set, which training reads without decoding anything:
latents of all frames, and text features of all captions, made with the VAE and the text encoder
of a model. A stopped run goes on where it was. Clips that cannot be used are left out and counted;
the exit code is 3 if a file cannot be read.

A clip is a video, or a folder of pictures. Clips lie in the folder itself, or in one sub-folder
for each class. Captions are the lines of NAME.txt beside a clip, or rows of captions.jsonl or
captions.csv (file, caption) in the folder. Published data sets: --layout {", ".join(LAYOUTS)}.
"""
EXAMPLES = """\
examples:
  python -m latte_core prepare my_videos my_set --model starter
  python -m latte_core prepare UCF-101 ucf_set --layout ucf101 --model class-starter --size 64
  python -m latte_core prepare my_videos my_set --model ~/models/Latte-1 --size 512 --flips
  python -m latte_core prepare --show my_set
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    add = parser.add_argument
    add("videos", metavar="VIDEOS", nargs="?", help="folder of the videos")
    add("target", metavar="SET", nargs="?", help="folder to write")
    add("--model", help="starter, class-starter, a model's folder or file, or a VAE")
    add("--layout", choices=tuple(LAYOUTS), default="folder", help="of the clips (default: folder)")
    add("--size", help="pixels, as 256 or 320x192; multiples of 16 (default: the model's)")
    add("--frames", type=int, metavar="N", help="skip clips with fewer (default: the model's)")
    add(
        "--interval",
        type=int,
        default=DEFAULTS.interval,
        metavar="N",
        help=f"between frames in training; for sampling by {STYLES[1]} (default: %(default)s)",
    )
    add(
        "--frames-per-video",
        type=int,
        default=DEFAULTS.max_frames,
        metavar="N",
        help="stored at most, from the first (default: %(default)s)",
    )
    add("--flips", action="store_true", help="store every clip mirrored, too, in twice the space")
    add(
        "--posterior",
        action="store_true",
        help="store the spread of the VAE's posterior, too, in twice the space",
    )
    add("--keep-captions", action="store_true", help="do not clean captions, only lower their case")
    add(
        "--max-failures",
        type=float,
        default=DEFAULTS.max_failures,
        metavar="SHARE",
        help="stop when more than this share of the clips is unusable (default: %(default)s)",
    )
    _add_machine(parser)
    group = parser.add_argument_group("looking at a set")
    group.add_argument("--show", metavar="SET", help="say what a prepared set holds, and check it")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how to run").add_argument
    add(
        "--dtype",
        choices=tuple(STORED_DTYPES),
        default="float16",
        help="to store (default: float16)",
    )
    add("--precision", choices=DTYPES, help="to run the model in (default: float32 VAE)")
    add("--device", help="cpu, or a torch device (default: the GPU if there is one)")
    add(
        "--workers",
        type=int,
        default=DEFAULTS.num_workers,
        help="videos decoded at once (default: %(default)s)",
    )
    add(
        "--batch",
        type=int,
        default=DEFAULTS.batch,
        help="frames encoded at once; lower it if memory runs out (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepare a set, or show one."""
    if arguments.show is not None:
        _show(LatentSet.open(arguments.show, verify=True), Path(arguments.show))
        return 0
    if arguments.target is None or arguments.model is None:
        raise InvalidInputError(
            "prepare needs a folder of videos, a folder to write, and --model. See --help."
        )
    height, width = _size(arguments.size)
    settings = PrepareSettings(
        layout=arguments.layout,
        height=height,
        width=width,
        num_frames=arguments.frames,
        interval=arguments.interval,
        max_frames=arguments.frames_per_video,
        has_flips=arguments.flips,
        has_std=arguments.posterior,
        dtype=arguments.dtype,
        num_workers=arguments.workers,
        batch=arguments.batch,
        clean_captions=not arguments.keep_captions,
        max_failures=arguments.max_failures,
    )
    bar = StepBar()
    try:
        made = prepare_set(
            arguments.videos,
            arguments.target,
            arguments.model,
            settings,
            device=arguments.device,
            precision=dtype_from(arguments.precision),
            callback=bar,
        )
    finally:
        bar.close()
    _show(made, Path(arguments.target))
    return LEFT_OUT if bar.num_damaged else 0


class StepBar:
    """Shows the progress of `prepare_set`: one bar for clips, one for captions."""

    def __init__(self) -> None:
        self._tqdm = load_tqdm()
        self._what = ""
        self._bar: Any = None
        self.num_damaged = 0

    def __call__(self, step: PrepareStep) -> None:
        """Advance to a step."""
        self.num_damaged = step.num_damaged
        if step.what != self._what:
            self.close()
            self._what = step.what
            self._bar = self._tqdm(desc=step.what, total=step.total, dynamic_ncols=True)
        if step.num_skipped:
            self._bar.set_postfix_str(f"{step.num_skipped} skipped", refresh=False)
        self._bar.update(step.done - self._bar.n)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()


def _size(text: str | None) -> tuple[int | None, int | None]:
    """Return height and width of "256" or "320x192", which is width by height."""
    if text is None:
        return None, None
    found = SIZE.fullmatch(text)
    if found is None:
        raise InvalidInputError(f"--size is {text!r}, but it must read like 256 or 320x192.")
    width, height = found.group(1), found.group(2) or found.group(1)
    return int(height), int(width)


def _show(made: LatentSet, folder: Path) -> None:
    """Print what a set holds."""
    info = made.info
    frames = [made.num_frames(index) for index in range(len(made))]
    bytes_of = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    rows = {
        "clips": f"{len(made):,}, {min(frames)} to {max(frames)} frames, {sum(frames):,} in all",
        "latents": f"{info.channels} x {info.latent_height} x {info.latent_width}, {info.dtype}",
        "mirrored": "yes" if info.has_flips else "no",
        "posterior": "mean and spread" if info.has_std else "mean",
        "classes": f"{len(info.class_names):,}" if info.class_names else "none",
        "captions": "none" if info.text_width is None else f"{made.num_captions - 1:,}",
        "layout": info.layout or "drawn",
        "model": info.model,
        "on disk": f"{bytes_of / 1e6:,.1f} MB",
        "skipped": f"{len(made.skipped):,}",
        **info.details,
    }
    print(f"{folder} is a prepared set:")
    for name, text in rows.items():
        print(f"  {name:<20}{text}")
    for skip in made.skipped[:LISTED_SKIPS]:
        print(f"  skipped {skip.name}: {skip.reason}")
    if len(made.skipped) > LISTED_SKIPS:
        print(f"  ... and {len(made.skipped) - LISTED_SKIPS} more, listed in set.json")


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
