"""`convert`: any file or folder that holds a part of Latte to one safetensors or GGUF file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoint import convert
from ..checkpoint.conversion.convert import KINDS
from ..checkpoint.writing.gguf_writer import GGUF_TYPES
from ..precision.packing import PACKED
from .command import Command
from .options import DTYPES, dtype_from

DESCRIPTION = """\
Write one safetensors file from a .pt file, a folder of shards, or a file with other names.
A temporal VAE and a LoRA get the names that ComfyUI reads. The source is never changed.

--quantize makes a transformer or a text encoder smaller: fp8 and int8 are read by this package and
by ComfyUI's own loaders (int8 by those that know the layout int8_tensorwise). int4, for text
encoders, is read by this package alone, and stays in four bits. A target ending in .gguf, for
transformers, is read by "Unet Loader (GGUF)" of ComfyUI-GGUF.
"""
EXAMPLES = """\
examples:
  python -m latte_core convert t2v.pt latte.safetensors
  python -m latte_core convert ~/models/Latte-1 latte_bf16.safetensors --dtype bfloat16
  python -m latte_core convert ~/models/Latte-1 latte_temporal_vae.safetensors --part temporal_vae
  python -m latte_core convert ~/models/Latte-1 latte_fp8.safetensors --quantize fp8
  python -m latte_core convert ~/models/Latte-1 latte_q8.gguf --quantize Q8_0
  python -m latte_core convert ~/models/Latte-1 t5_int4.safetensors --part text_encoder \\
      --quantize int4
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convert`."""
    add = parser.add_argument
    add("source", metavar="SRC", help="file or folder to read")
    add("target", metavar="DST", help="file to write, ending in .safetensors or .gguf")
    add(
        "--part",
        choices=tuple(KINDS.values()),
        help="which part of a whole model's folder (default: the transformer)",
    )
    add("--dtype", choices=DTYPES, help="number format to write (default: the source's)")
    add(
        "--quantize",
        choices=(*PACKED, *GGUF_TYPES),
        metavar="FORMAT",
        help="store attention and feed-forward layers as "
        f"{' or '.join(PACKED)} (the last for text encoders alone); for .gguf as "
        f"{', '.join(GGUF_TYPES)} (default: F16)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written."""
    done = convert(
        Path(arguments.source),
        Path(arguments.target),
        kind=arguments.part,
        dtype=dtype_from(arguments.dtype),
        quantize=arguments.quantize,
    )
    print(done.sentence)
    return 0


COMMAND = Command(
    description=DESCRIPTION,
    examples=EXAMPLES,
    add_options=add_options,
    run=run,
)
