"""Prepared training data on disk: latents and text features in sharded safetensors files.

The face of the `set_*` modules; `set_format.py` describes the files.
"""

from __future__ import annotations

from .sets.format import LatentSetInfo, Skip
from .sets.reader import LatentSet
from .sets.writer import LatentSetWriter

__all__ = ["LatentSet", "LatentSetInfo", "LatentSetWriter", "Skip"]
