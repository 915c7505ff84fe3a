"""Latte, a latent diffusion transformer for video (arXiv 2401.03048), without any host.

`Pipeline` makes videos from prompts, and `ClassPipeline` those of a class or of none; `train`
teaches a model. `load_transformer` opens a transformer alone, and `sample_reference` samples one
without text as the authors do. They are imported when they are first asked for, so that importing
this package imports nothing else, not even torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from .lazy import listing, names_from
from .version import __version__

if TYPE_CHECKING:
    from .acceleration import parse_cache
    from .checkpoint import load_transformer, read_tensors, write_safetensors
    from .config.latte import LatteConfig
    from .config.t2v import LatteT2VConfig
    from .model.latte.transformer import Latte
    from .model.t2v.transformer import LatteT2V
    from .pipelines.classes.pipeline import ClassPipeline
    from .pipelines.run import PipelineResult
    from .pipelines.text.pipeline import Pipeline
    from .sampling import sample_reference
    from .training.run import train
    from .training.train_config import TrainConfig
    from .video import write_video

__all__ = [
    "CheckpointError",
    "ClassPipeline",
    "CorruptCheckpointError",
    "IncompatibleInputsError",
    "InvalidInputError",
    "Latte",
    "LatteConfig",
    "LatteError",
    "LatteT2V",
    "LatteT2VConfig",
    "MissingDependencyError",
    "NonFiniteError",
    "Pipeline",
    "PipelineResult",
    "TrainConfig",
    "UnknownArchitectureError",
    "UnsafeCheckpointError",
    "VideoWriteError",
    "WeightMismatchError",
    "__version__",
    "load_transformer",
    "parse_cache",
    "read_tensors",
    "sample_reference",
    "train",
    "write_safetensors",
    "write_video",
]

__dir__ = listing(__name__, __all__)
__getattr__ = names_from(
    __name__,
    {
        "acceleration": ("parse_cache",),
        "checkpoint": ("load_transformer", "read_tensors", "write_safetensors"),
        "config.latte": ("LatteConfig",),
        "config.t2v": ("LatteT2VConfig",),
        "model.latte.transformer": ("Latte",),
        "model.t2v.transformer": ("LatteT2V",),
        "pipelines.classes.pipeline": ("ClassPipeline",),
        "pipelines.run": ("PipelineResult",),
        "pipelines.text.pipeline": ("Pipeline",),
        "sampling": ("sample_reference",),
        "training.run": ("train",),
        "training.train_config": ("TrainConfig",),
        "video": ("write_video",),
    },
)
