"""Prepared training data on disk: latents and text features in sharded safetensors files."""

from __future__ import annotations

from .format import LatentSetInfo, Skip
from .reader import LatentSet
from .writer import LatentSetWriter

__all__ = ["LatentSet", "LatentSetInfo", "LatentSetWriter", "Skip"]
