"""`train`: train, fine-tune or adapt a Latte."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import Any

from ..errors import InvalidInputError
from ..training.run import train
from ..training.run_folder import RunFolder
from ..training.train_config import TrainConfig, parse_config
from ..training.trainer import Report
from .command import Command

DESCRIPTION = """\
Train a Latte as a config says: from nothing, from released or image weights, or as an adapter
(LoRA). A run that was stopped or killed goes on where its last checkpoint is. Ctrl-C ends it with a
checkpoint. Several GPUs: start it with `accelerate launch -m latte_core train ...` or torchrun.
"""
EXAMPLES = """\
examples:
  python -m latte_core train my_run.json
  python -m latte_core train my_run.yaml --set num_steps=2000 --set lora.rank=8
  accelerate launch -m latte_core train my_run.yaml
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    add = parser.add_argument
    add("config", help="a .json or .yaml file with the settings of the run; see docs/training.md")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that wins over the file's; VALUE is JSON, or a plain word",
    )
    add("--device", help="cpu, cuda, mps ... (default: the accelerator if there is one)")
    add(
        "--stop-with-input",
        action="store_true",
        help="end with a checkpoint when standard input is closed, as it is when the program that "
        "started the training ends",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    config = parse_config(arguments.config, dict(map(split_setting, arguments.set)))
    with stop_request(arguments.stop_with_input) as asked:
        result = train(
            config,
            device=arguments.device,
            should_stop=asked.is_set,
            on_report=Lines(config.num_steps),
        )
    state = RunFolder(config.output).status().get("state")
    if state == "stopped":
        print("Stopped. Start the same command again to go on.")
    if result.exists():
        print(f"The weights are in {result}.")
    return 0


def split_setting(text: str) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE.

    Raises:
        InvalidInputError: without "=", or for an unknown key.
    """
    key, equals, value = text.partition("=")
    known = {one.name for one in fields(TrainConfig)}
    if not equals or key.partition(".")[0] not in known:
        raise InvalidInputError(
            f"--set {text} is not KEY=VALUE with a key of the training config. The keys are "
            f"{', '.join(sorted(known))}."
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


class Lines:
    """Prints a line for each report."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def __call__(self, report: Report) -> None:
        """Print one report."""
        print(
            f"{report.step:>8}/{self.num_steps}  loss {report.loss:.4f}  "
            f"noise {report.squared:.4f}  variance {report.variational:.4f}  "
            f"norm {report.norm:.3f}  rate {report.rate:.1e}  "
            f"{report.clips_per_second:.1f} clips/s",
            flush=True,
        )


@contextmanager
def stop_request(with_input: bool) -> Generator[threading.Event]:
    """Yield an event that Ctrl-C, a termination signal or the end of standard input sets.

    A second Ctrl-C ends the process at once.
    """
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)
        print("Stopping after this update ...", file=sys.stderr, flush=True)

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask) for number in numbers}
    if with_input:
        threading.Thread(target=wait_for_end, args=(asked,), daemon=True).start()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_end(asked: threading.Event) -> None:
    """Set the event when standard input ends.

    Read below Python's buffer, whose lock would still be held when the run finishes first.
    """
    while os.read(sys.stdin.fileno(), 4096):
        pass
    asked.set()


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
