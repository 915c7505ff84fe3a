"""The command line's frame: commands, help, and one sentence for every error."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from ..errors import LatteError
from ..text_files import user_path
from ..version import __version__
from .advice import with_options
from .command import CommandName
from .console import outlets

PROGRAM = "python -m latte_core"
BAD_INPUT = 2
INTERRUPTED = 130
SPOKEN = {"prompt", "negative", "caption", "classes", "set"}  # options that hold no path

DESCRIPTION = "Latte: short videos from a sentence, with a starter model that needs no download."
EXAMPLES = f"""\
Try it:
  {PROGRAM} sample --prompt "a blue square moving up" --output square.mp4
  {PROGRAM} sample --help

Look at a weights file, or turn it into one safetensors file:
  {PROGRAM} inspect t2v.pt
  {PROGRAM} convert t2v.pt latte.safetensors
"""


COMMANDS: tuple[CommandName, ...] = (
    CommandName(
        name="sample", help="make videos from a prompt or of a class", module="sample.command"
    ),
    CommandName(name="calibrate", help="find out which steps a model can skip, for sample --cache"),
    CommandName(name="inspect", help="say what a weights file is"),
    CommandName(name="convert", help="turn weights into one safetensors or GGUF file"),
    CommandName(name="evaluate", help="measure how well a starter does what it is told"),
    CommandName(name="draw-clips", help="draw captioned videos to practise training with"),
    CommandName(name="prepare", help="turn videos into latents that training reads"),
    CommandName(name="train", help="train, fine-tune or adapt a model"),
    CommandName(name="video-to-frames", help="turn videos into folders of square pictures"),
    CommandName(name="train-starter", help="train a starter model from nothing"),
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"Error: {message}. See {self.prog} --help\n")


class CommandParser(Parser):
    """The parser of one command, whose module is imported when it is called.

    Args:
        command: which it is.
        options: of `argparse.ArgumentParser`.
    """

    def __init__(self, command: CommandName, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._unloaded: CommandName | None = command

    def parse_known_args(self, *given: Any, **options: Any) -> Any:
        """Parse what follows the command."""
        if self._unloaded is not None:
            command = self._unloaded.load()
            self.description, self.epilog = command.description, command.examples
            command.add_options(self)
            self.set_defaults(run=command.run)
            self._unloaded = None
        return super().parse_known_args(*given, **options)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"latte_core {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for command in COMMANDS:
        commands.add_parser(command.name, help=command.help, command=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0 is done, 2 an error, 3 done but for files that cannot be read, 130 interrupted.
    """
    try:
        with outlets():
            parsed = make_parser().parse_args(arguments)
            expand_home(parsed)
            with notices_to(sys.stderr):
                return _run(parsed)
    except OSError as error:  # of the console itself, such as a full disk behind it
        return _fail(words_of(error))


def _run(parsed: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except LatteError as error:
        return _fail(str(error))
    except (RuntimeError, MemoryError) as error:
        from ..devices import is_out_of_memory  # not before torch is wanted

        if not is_out_of_memory(error):
            raise
        return _fail(
            "There is not enough memory for this video. Ask for fewer frames or a smaller "
            "size, or use a smaller --memory, --dtype bfloat16 or --device cpu."
        )
    except OSError as error:
        return _fail(words_of(error))
    except KeyboardInterrupt:
        print("\nStopped. Nothing was left half written.", file=sys.stderr)
        return INTERRUPTED


def words_of(error: OSError) -> str:
    """Return a sentence for what the system refused."""
    name = "" if error.filename is None else f" of {Path(str(error.filename)).name}"
    return (
        f"The system refused the use{name}: {error.strerror or error}. Look whether the file and "
        "its folder are there, whether you may use them, and whether the disk has room."
    )


def expand_home(parsed: argparse.Namespace) -> None:
    """Put the home folder in place of a leading `~`, which not every shell does, and not in all."""
    for name, value in vars(parsed).items():
        if name in SPOKEN:
            continue
        if isinstance(value, str):
            setattr(parsed, name, user_path(value))
        elif isinstance(value, list):
            listed = cast("list[object]", value)
            setattr(parsed, name, [user_path(v) if isinstance(v, str) else v for v in listed])


def _fail(sentence: str) -> int:
    print(f"Error: {with_options(sentence)}", file=sys.stderr)
    return BAD_INPUT


class OnlyOnce(logging.Filter):
    """Lets a line through the first time only: a run of many videos may log it for each."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line was not shown before."""
        line = record.getMessage()
        is_new = line not in self._seen
        self._seen.add(line)
        return is_new


@contextmanager
def notices_to(stream: TextIO) -> Generator[None]:
    """Show warnings and log lines of this package as one plain line each."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("Note: %(message)s"))
    handler.addFilter(OnlyOnce())
    logger = logging.getLogger("latte")
    logger.addHandler(handler)

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if not issubclass(category, (DeprecationWarning, FutureWarning)):
            print(f"Note: {message}", file=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            logger.removeHandler(handler)
