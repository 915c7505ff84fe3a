"""The Frechet distance between two sets of features: FVD with I3D, FID with InceptionV3.

|mean_r - mean_g|^2 + tr(S_r + S_g - 2 sqrt(S_g S_r)), Dowson and Landau (1982), eq. 16; as a metric
of images Heusel et al. (2017), of videos Unterthiner et al. (2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import IncompatibleInputsError, InvalidInputError
from .statistics import FeatureStatistics


def needed_samples(num_features: int) -> int:
    """Return how many samples a Frechet distance needs on each side: one more than features.

    With fewer, the covariance is singular whatever the videos show, and the distance says more
    about the number of samples than about them.
    """
    return num_features + 1


def require_samples(side: str, found: int, num_features: int) -> None:
    """Refuse too few samples for a Frechet distance.

    Args:
        side: what to call them, for example "the real side".

    Raises:
        InvalidInputError: naming how many there are and how many are needed.
    """
    needed = needed_samples(num_features)
    if found < needed:
        raise InvalidInputError(
            f"There are {found} samples on {side}, but a Frechet distance of {num_features} "
            f"features needs at least {needed} on each side; published numbers use 2048 or more. "
            "Give more videos, or features with fewer numbers."
        )


def frechet_distance(real: FeatureStatistics, fake: FeatureStatistics) -> float:
    """Return the distance between two sets of features; 0 for equal sets, never below.

    Raises:
        InvalidInputError: for too few samples on a side.
        IncompatibleInputsError: for different numbers of features.
    """
    if real.num_features != fake.num_features:
        raise IncompatibleInputsError(
            f"The real side has {real.num_features} features and the fake side "
            f"{fake.num_features}. Use one feature network for both."
        )
    require_samples("the real side", real.count, real.num_features)
    require_samples("the fake side", fake.count, fake.num_features)
    return gaussian_distance(real.mean, real.covariance, fake.mean, fake.covariance)


def gaussian_distance(
    real_mean: Tensor, real_covariance: Tensor, fake_mean: Tensor, fake_covariance: Tensor
) -> float:
    """Return the Frechet distance between two normal distributions.

    Args:
        real_mean, fake_mean: (D,).
        real_covariance, fake_covariance: (D, D), symmetric, not negative; they may be singular.
    """
    means = (real_mean.double() - fake_mean.double()).square().sum()
    left, right = _factor(real_covariance.double()), _factor(fake_covariance.double())
    linalg: Any = torch.linalg  # it has no types
    # The eigenvalues of S_g S_r are the squares of the singular values of A^T B where S_r = A A^T
    # and S_g = B B^T. Singular values keep the precision that a root of eigenvalues would halve.
    cross: Tensor = linalg.svdvals(left.T @ right).sum()
    traces = left.square().sum() + right.square().sum()
    return max(float(means + traces - 2 * cross), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """Return A, (D, R), with A A^T = covariance; R is its rank to float64's precision."""
    linalg: Any = torch.linalg
    found: tuple[Tensor, Tensor] = linalg.eigh(covariance)
    values, vectors = found
    threshold = values.abs().max() * len(values) * torch.finfo(torch.float64).eps
    kept = values > threshold
    return vectors[:, kept] * values[kept].sqrt()
