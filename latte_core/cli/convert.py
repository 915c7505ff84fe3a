"""`convert`: any file or folder that holds a part of Latte to one safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoint import convert
from ..checkpoint.convert import KINDS
from .command import Command
from .options import DTYPES, dtype_from

DESCRIPTION = """\
Write one safetensors file from a .pt file, a folder of shards, or a file with other names.
A temporal VAE and a LoRA get the names that ComfyUI reads. The source is never changed.
"""
EXAMPLES = """\
examples:
  python -m latte_core convert t2v.pt latte.safetensors
  python -m latte_core convert ~/models/Latte-1 latte_bf16.safetensors --dtype bfloat16
  python -m latte_core convert ~/models/Latte-1 latte_temporal_vae.safetensors --part temporal_vae
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convert`."""
    add = parser.add_argument
    add("source", metavar="SRC", help="file or folder to read")
    add("target", metavar="DST", help="file to write, ending in .safetensors")
    add(
        "--part",
        choices=tuple(KINDS.values()),
        help="which part of a whole model's folder (default: the transformer)",
    )
    add("--dtype", choices=tuple(DTYPES), help="number format to write (default: the source's)")


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written."""
    done = convert(
        Path(arguments.source),
        Path(arguments.target),
        kind=arguments.part,
        dtype=dtype_from(arguments.dtype),
    )
    print(done.sentence)
    return 0


COMMAND = Command(
    name="convert",
    help="turn weights into one safetensors file",
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
