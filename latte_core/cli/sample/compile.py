"""The options of `sample` that compute the same faster: what they do, report, and record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    from ...acceleration.compilation import RegionalCompiler
    from ...pipelines.classes.pipeline import ClassPipeline
    from ...pipelines.text.pipeline import Pipeline

FIXED = "fixed"  # what a recipe says of kernels that are chosen by rule


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that run the same computation faster."""
    group = parser.add_argument_group("how to make it faster, without loss")
    group.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the model's blocks: seconds to a minute at the first video of a size, for "
        "faster steps in all of them; needs a C++ compiler, and without one runs as usual",
    )
    group.add_argument(
        "--cuda-graph",
        action="store_true",
        default=None,
        help="on NVIDIA cards: replay each step as one graph, which helps most with small videos "
        "and fast cards; takes memory, and does not go with --cache",
    )
    group.add_argument(
        "--no-kernels",
        dest="kernels",
        action="store_false",
        default=None,
        help="use torch's own operators where fused kernels would be faster (NVIDIA cards with "
        "Triton): to compare, or if a kernel is suspected of a wrong result",
    )
    group.add_argument(
        "--fixed-kernels",
        dest="kernels",
        action="store_const",
        const=FIXED,
        default=None,
        help="choose fused kernels by rule in place of a timing, which the first run of a card "
        "makes and later runs know: the same bits on every card of a kind",
    )
    group.add_argument(
        "--fuse-qkv",
        action="store_true",
        default=None,
        help="compute queries, keys and values of self-attention in one product in place of three: "
        "fewer and larger operations, the same weights, videos that differ by rounding; class "
        "models are made like that",
    )


def compile_entry(settings: Settings) -> Mapping[str, Any]:
    """Return what a recipe says of them: nothing of what is as usual."""
    entries = {
        "compile": settings.compiled,
        "cuda_graph": settings.cuda_graph,
        "fuse_qkv": settings.fuse_qkv,
    }
    kernels = {} if settings.kernels is None else {"kernels": settings.kernels}
    return {**{name: True for name, is_on in entries.items() if is_on}, **kernels}


class CompileNotes:
    """Sets a pipeline up, and prints what was compiled and recorded.

    Args:
        pipeline: with its LoRAs and precision.
        settings: what was asked for.
    """

    def __init__(self, pipeline: Pipeline | ClassPipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        if settings.kernels is False:
            pipeline.use_kernels(False)
        if settings.kernels == FIXED:
            pipeline.use_kernels(is_timed=False)
        if settings.fuse_qkv:
            pipeline.fuse_qkv()
        self._compiler: RegionalCompiler | None = pipeline.compile() if settings.compiled else None
        if settings.cuda_graph:
            pipeline.use_cuda_graph()
        self._counts = (0, 0)
        self._is_failure_told = False

    def tell(self) -> None:
        """Print what is new since the last video: graphs that were made, and the time it took."""
        compiled = None if self._compiler is None else self._compiler.report()
        recorded = None if self._pipeline.graphs is None else self._pipeline.graphs.report()
        counts = (compiled.graphs if compiled else 0, recorded.graphs if recorded else 0)
        if compiled is not None and compiled.failure:
            if not self._is_failure_told:
                print(compiled.sentence())
            self._is_failure_told = True
        elif compiled is not None and counts[0] > self._counts[0]:
            print(f"{compiled.sentence()} Other videos of this size need no more.")
        if recorded is not None and counts[1] > self._counts[1]:
            print(recorded.sentence())
        self._counts = counts
