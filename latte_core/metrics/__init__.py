"""Measuring how close made videos come to real ones: FVD, FID, KID and the Inception Score."""

from __future__ import annotations

from .clips import Clips, FolderClips, SideReport
from .features import NETWORKS, FeatureNetwork, Features, load_features
from .frechet import frechet_distance, gaussian_distance, needed_samples
from .inception_score import InceptionScore, inception_score
from .kernel_distance import KernelDistance, kernel_distance
from .measure import Measurement, measure
from .protocol import PRESETS, MetricProtocol, find_protocol
from .statistics import FeatureStatistics

__all__ = [
    "NETWORKS",
    "PRESETS",
    "Clips",
    "FeatureNetwork",
    "FeatureStatistics",
    "Features",
    "FolderClips",
    "InceptionScore",
    "KernelDistance",
    "Measurement",
    "MetricProtocol",
    "SideReport",
    "find_protocol",
    "frechet_distance",
    "gaussian_distance",
    "inception_score",
    "kernel_distance",
    "load_features",
    "measure",
    "needed_samples",
]
