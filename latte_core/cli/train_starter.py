"""`train-starter`: make one of the starter models again, from nothing."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..checks import check_seed
from ..errors import InvalidInputError
from .command import Command

KINDS = ("text", "class")

DESCRIPTION = """\
Train a starter model from nothing, on clips drawn as it goes: the text starter (tokenizer,
autoencoders, text encoder and transformer) or the class starter (a transformer for the text
starter's image VAE). A stopped run goes on where it was. On two CPU cores it takes hours.
"""
EXAMPLES = """\
examples:
  python -m latte_core train-starter my_starter
  python -m latte_core train-starter my_classes --kind class
  python -m latte_core evaluate my_starter
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train-starter`."""
    add = parser.add_argument
    add("folder", help="receives the model; the text starter in the layout of Latte-1")
    add("--kind", choices=KINDS, default=KINDS[0], help="which starter (default: text)")
    add(
        "--variant",
        type=int,
        choices=(1, 2, 3, 4),
        default=1,
        help="with --kind class: which of the paper's four transformers (default: 1)",
    )
    add("--work", metavar="FOLDER", help="keeps unfinished training (default: FOLDER.training)")
    add("--seed", type=int, default=0, help="of every random choice (default: 0)")
    add("--start-from", metavar="FOLDER", help="train this starter's transformer further")
    add(
        "--base",
        metavar="FOLDER",
        help="take autoencoders, tokenizer and text encoder from this text starter",
    )
    add("--scale", type=float, default=1.0, help="multiplies all step counts (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Train all parts and write the model."""
    check_seed(arguments.seed)
    if not 0 < arguments.scale <= 100:
        raise InvalidInputError(
            f"--scale is {arguments.scale:g}, but it must be above 0 and 100 at most."
        )
    if arguments.start_from is not None and arguments.base is not None:
        raise InvalidInputError(
            "--start-from keeps all parts of its starter, so --base has no use. Leave one of them "
            "out."
        )
    if arguments.kind == "text" and arguments.variant != 1:
        raise InvalidInputError(
            f"--variant {arguments.variant} was given for the text starter, but text-to-video "
            "Lattes exist in variant 1 only. Add --kind class, or leave it out."
        )
    logging.getLogger("latte").setLevel(logging.INFO)
    folder = Path(arguments.folder)
    work = Path(arguments.work or f"{arguments.folder}.training")
    common: dict[str, Any] = {
        "seed": arguments.seed,
        "steps_scale": arguments.scale,
        "base": None if arguments.base is None else Path(arguments.base),
        "start_from": None if arguments.start_from is None else Path(arguments.start_from),
    }
    if arguments.kind == "class":
        from ..starter.class_starter import train_class_starter

        train_class_starter(folder, work, **common, variant=arguments.variant)
    else:
        from ..starter.text_starter import train_starter

        train_starter(folder, work, **common)
    print(f"The model is in {folder}. Measure it with: python -m latte_core evaluate {folder}")
    return 0


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
