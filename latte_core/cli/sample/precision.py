"""`--precision` of `sample`: how it is written, and what the recipe says of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...precision.names import PRECISIONS, TEXT_PRECISIONS
from .compile import FIXED

if TYPE_CHECKING:
    from ...pipelines.classes.pipeline import ClassPipeline
    from ...pipelines.text.pipeline import Pipeline
    from .settings import Settings

PRODUCT = "precision_product"  # in a recipe; a timing decides it, so it may change between runs


def add_precision_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a run compute less exactly."""
    group = parser.add_argument_group("how exactly to compute")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="fp8 or int8: attention and feed-forward layers in eight bits, with the LoRAs in them "
        "(fp8 for NVIDIA cards from the RTX 40 series on, int8 from the RTX 20 series on and for "
        "CPUs with VNNI or AMX; where a layer, timed on the card, is no faster they only save "
        "memory); fp16-acc: sums in float16, with --dtype float16, on NVIDIA cards",
    )
    group.add_argument(
        "--text-precision",
        choices=TEXT_PRECISIONS,
        help="store the text encoder in eight bits, half of its memory, or in four (int4), less "
        "than a third; layers are unpacked when a prompt is encoded, so nothing gets faster",
    )


def set_precision(pipeline: Pipeline | ClassPipeline, settings: Settings) -> None:
    """Set the precision that was asked for, and print what was done for it."""
    if settings.precision is None:
        return
    if settings.kernels is not None:  # of products in eight bits, too
        pipeline.use_kernels(settings.kernels is not False, is_timed=settings.kernels != FIXED)
    pipeline.set_precision(settings.precision)
    if pipeline.precision.sentence is not None:
        print(pipeline.precision.sentence)


def precision_entry(
    precision: str | None, text_precision: str | None, product: str | None
) -> Mapping[str, Any]:
    """Return what a recipe says of it: nothing of what was left out.

    Args:
        precision, text_precision: as they were asked for.
        product: how eight-bit layers multiplied.
    """
    entries = {
        "precision": precision,
        PRODUCT: product,
        "text_precision": text_precision,
    }
    return {name: value for name, value in entries.items() if value is not None}
