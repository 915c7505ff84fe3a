"""What a command of the command line is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

LEFT_OUT = 3  # exit code: the work was done, but for files that cannot be read


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One sub-command.

    Args:
        description: what it does, above its options.
        examples: command lines that work, below its options.
        add_options: adds the options to its parser.
        run: does the work and returns the exit code.
    """

    description: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandName:
    """A sub-command by name; the rest of it is imported when it is called.

    Args:
        name: the word that is typed.
        help: one line for the list of commands.
        module: where the rest is, unless its name is that of the command.
    """

    name: str
    help: str
    module: str = ""

    def load(self) -> Command:
        """Return the `COMMAND` of its module."""
        module = import_module(f".{self.module or self.name.replace('-', '_')}", __package__)
        command: Command = module.COMMAND
        return command
