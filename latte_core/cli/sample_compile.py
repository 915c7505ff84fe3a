"""`--compile`, `--cuda-graph` and `--no-kernels` of `sample`: what they do, report, and record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..acceleration.compilation import RegionalCompiler
from ..class_pipeline import ClassPipeline
from ..pipeline import Pipeline


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


def compile_entry(
    is_compiled: bool | None, has_graph: bool | None, has_kernels: bool | None
) -> Mapping[str, Any]:
    """Return what a recipe says of them: nothing of what is as usual."""
    entries = {"compile": is_compiled, "cuda_graph": has_graph}
    kernels = {"kernels": False} if has_kernels is False else {}
    return {**{name: True for name, is_on in entries.items() if is_on}, **kernels}


class CompileNotes:
    """Sets a pipeline up, and prints what was compiled and recorded.

    Args:
        pipeline: with its LoRAs and precision.
        is_compiled, has_graph, has_kernels: what was asked for.
    """

    def __init__(
        self,
        pipeline: Pipeline | ClassPipeline,
        is_compiled: bool | None,
        has_graph: bool | None,
        has_kernels: bool | None,
    ) -> None:
        self._pipeline = pipeline
        if has_kernels is False:
            pipeline.use_kernels(False)
        self._compiler: RegionalCompiler | None = pipeline.compile() if is_compiled else None
        if has_graph:
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
