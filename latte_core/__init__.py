"""Latte, a latent diffusion transformer for video (arXiv 2401.03048), without any host.

`Pipeline` makes videos from prompts; `load_transformer` opens a transformer alone, and
`sample_reference` samples one without text as the authors do. They are imported when they are first
asked for, so that importing this package imports nothing else, not even torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config.t2v import LatteT2VConfig
from .errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    LatteError,
    MissingDependencyError,
    NonFiniteError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    VideoWriteError,
    WeightMismatchError,
)
from .version import __version__

if TYPE_CHECKING:
    from .checkpoint.loading.loader import load_transformer
    from .pipelines.text.pipeline import Pipeline, PipelineResult
    from .sampling.reference import sample_reference

__all__ = [
    "CheckpointError",
    "CorruptCheckpointError",
    "IncompatibleInputsError",
    "InvalidInputError",
    "LatteError",
    "LatteT2VConfig",
    "MissingDependencyError",
    "NonFiniteError",
    "Pipeline",
    "PipelineResult",
    "UnknownArchitectureError",
    "UnsafeCheckpointError",
    "VideoWriteError",
    "WeightMismatchError",
    "__version__",
    "load_transformer",
    "sample_reference",
]


def __getattr__(name: str) -> object:
    """Import the names that need torch when they are first used."""
    if name == "load_transformer":
        from .checkpoint.loading.loader import load_transformer

        return load_transformer
    if name in ("Pipeline", "PipelineResult"):
        from .pipelines.text import pipeline

        return getattr(pipeline, name)
    if name == "sample_reference":
        from .sampling.reference import sample_reference

        return sample_reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, also those not imported yet."""
    return sorted({*globals(), *__all__})
