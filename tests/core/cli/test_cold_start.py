"""What a fresh process imports: nothing heavy before arguments are checked, and only what is used.

Each fact is read from `sys.modules` of a process of its own, because this one imports everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "numpy", "transformers", "diffusers")
COMPILER = ("sympy", "torch._dynamo")  # what torch imports to compute with tensors without storage
SAMPLE = ("sample", "--prompt", "x", "--output", "x.mp4")

COMMAND_LINE = """
import contextlib, io, json, sys
from latte_core.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
    try:
        code = main({arguments!r})
    except SystemExit as ended:
        code = ended.code
print(json.dumps([code, said.getvalue(), [name for name in {names!r} if name in sys.modules]]))
"""
LOADING = """
import json, sys
from latte_core.checkpoint.loading.loader import load_transformer
from latte_core.shipped import {folder}
load_transformer({folder} / "transformer")
print(json.dumps([name for name in {names!r} if name in sys.modules]))
"""


def answer(program: str) -> list[object]:
    """Return what a fresh process prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: list[object] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, ""),
        (["--version"], 0, ""),
        (["sample", "--help"], 0, ""),
        (["sample", "--prompt", "x", "--width", "40", "--output", "x.mp4"], 2, "32 and 48"),
        (["sample", "--prompt", "x", "--frames", "0", "--output", "x.mp4"], 2, "frames is 0"),
        (["sample", "--prompt", "x", "--output", "x.avi"], 2, "x.avi"),
        ([*SAMPLE, "--sampler", "eular"], 2, "no sampler called 'eular'. Did you mean 'euler'?"),
        ([*SAMPLE, "--steps", "0"], 2, "steps is 0, but it must be a whole number from 1 to 1000"),
        ([*SAMPLE, "--sampler", "pndm", "--steps", "3"], 2, "steps (for PNDM) is 3"),
        ([*SAMPLE, "--steps", "ddim50"], 2, "a text-to-video model takes a whole number"),
        (
            [*SAMPLE, "--cache", "quick"],
            2,
            "no cache 'quick'. Write quality, balanced, fast",
        ),
        ([*SAMPLE, "--cache", "static:0.5"], 2, "The speed-up of the cache is 0.5"),
        ([*SAMPLE, "--eta", "5"], 2, "eta is 5.0, but it must be from 0 (deterministic) to 1"),
        ([*SAMPLE, "--guidance", "nan"], 2, "guidance_scale is nan"),
        ([*SAMPLE, "--fps", "0"], 2, "fps is 0.0, but a mp4 file needs a number from 0.001"),
        (["sample", "--prompt", "x", "--frames", "4", "--output", "a.png"], 2, "holds 1 frame"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_refusals_of_arguments_import_nothing_heavy(
    arguments: list[str], code: int, message: str
) -> None:
    ended, said, heavy = answer(COMMAND_LINE.format(arguments=arguments, names=HEAVY))
    assert ended == code
    assert message in str(said)
    assert heavy == []


@pytest.mark.parametrize("folder", ["STARTER_FOLDER", "CLASS_STARTER_FOLDER"])
def test_loading_a_transformer_leaves_torchs_compiler_out(folder: str) -> None:
    assert answer(LOADING.format(folder=folder, names=COMPILER)) == []
