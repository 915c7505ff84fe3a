"""Training data: clips found, sampled, transformed, decoded, and kept as latents on disk."""

from __future__ import annotations

from .frame_sampling import frame_indices, num_needed
from .sets import LatentSet, LatentSetInfo, LatentSetWriter, Skip

__all__ = [
    "LatentSet",
    "LatentSetInfo",
    "LatentSetWriter",
    "Skip",
    "frame_indices",
    "num_needed",
]
