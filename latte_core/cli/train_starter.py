"""`train-starter`: make the starter model again, from nothing."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import InvalidInputError
from ..types import check_seed
from .command import Command

DESCRIPTION = """\
Train the starter model from nothing: tokenizer, autoencoders, text encoder and transformer, on
clips drawn as it goes. A stopped run goes on where it was. On two CPU cores it takes hours.
"""
EXAMPLES = """\
examples:
  python -m latte_core train-starter my_starter
  python -m latte_core evaluate my_starter
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train-starter`."""
    add = parser.add_argument
    add("folder", help="receives the model, in the layout of Latte-1")
    add("--work", metavar="FOLDER", help="keeps unfinished training (default: FOLDER.training)")
    add("--seed", type=int, default=0, help="of every random choice (default: 0)")
    add("--start-from", metavar="FOLDER", help="train this starter's networks further")
    add("--scale", type=float, default=1.0, help="multiplies all step counts (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Train all parts and write the model."""
    check_seed(arguments.seed)
    if not 0 < arguments.scale <= 100:
        raise InvalidInputError(
            f"--scale is {arguments.scale:g}, but it must be above 0 and 100 at most."
        )
    from ..training.starter import train_starter

    logging.getLogger("latte").setLevel(logging.INFO)
    folder = Path(arguments.folder)
    work = Path(arguments.work or f"{folder}.training")
    source = None if arguments.start_from is None else Path(arguments.start_from)
    train_starter(folder, work, seed=arguments.seed, steps_scale=arguments.scale, start_from=source)
    print(f"The model is in {folder}. Measure it with: python -m latte_core evaluate {folder}")
    return 0


COMMAND = Command(
    name="train-starter",
    help="train the starter model from nothing",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
