"""What a command of the command line is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One sub-command.

    Args:
        name: the word that is typed.
        help: one line for the list of commands.
        description: what it does, above its options.
        examples: command lines that work, below its options.
        add_options: adds the options to its parser.
        run: does the work and returns the exit code.
    """

    name: str
    help: str
    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
