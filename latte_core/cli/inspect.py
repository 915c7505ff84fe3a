"""`inspect`: what a file is, whether it is whole, and which part of Latte."""

from __future__ import annotations

import argparse

from ..checkpoint import identify
from .advice import with_options
from .command import Command

DESCRIPTION = """\
Say what a weights file or folder is: which part of Latte, whether it is whole, and where it goes.
Only its header is read; nothing in the file is run.
"""
EXAMPLES = """\
examples:
  python -m latte_core inspect t2v.pt
  python -m latte_core inspect ~/models/Latte-1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.add_argument("file", metavar="FILE", help="weights file, or a model's folder")


def run(arguments: argparse.Namespace) -> int:
    """Print what the file is; the exit code is 2 if bytes of it are missing."""
    found = identify(arguments.file)
    print(with_options(found.sentence))
    print(f"  {'whole':<12}{'yes' if found.is_whole else 'no'}")
    for key, value in found.details.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        print(f"  {key:<12}{shown}")
    return 0 if found.is_whole else 2


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
