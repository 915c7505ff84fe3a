"""Mean and covariance of features that arrive in batches, on one machine or on several.

The covariance is the biased one, E[x x^T] - mean mean^T, as in the reference (docs/model.md 11): it
divides by the number of samples, not by one less. It is kept as the sum of products of deviations
from the running mean, which is the same number without the cancellation, and which two processes
can join (Chan, Golub and LeVeque, 1979, eq. 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import IncompatibleInputsError, InvalidInputError, NonFiniteError


@dataclass(slots=True)
class FeatureStatistics:
    """Running mean and covariance in float64 on the CPU.

    Args:
        num_features: length D of every sample.
    """

    num_features: int
    count: int = field(default=0, init=False)
    mean: Tensor = field(init=False)
    scatter: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = torch.zeros(self.num_features, dtype=torch.float64)
        self.scatter = torch.zeros(self.num_features, self.num_features, dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        """The biased covariance, (D, D) float64.

        Raises:
            InvalidInputError: before the first sample.
        """
        if self.count == 0:
            raise InvalidInputError("There are no samples, so there is no covariance. Add some.")
        return self.scatter / self.count

    def add(self, features: Tensor) -> None:
        """Take in samples, (N, D) of any floating-point type.

        Raises:
            IncompatibleInputsError: for another shape.
            NonFiniteError: if a feature is NaN or infinite.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise IncompatibleInputsError(
                f"Features have shape {tuple(features.shape)}, but (samples, {self.num_features}) "
                "is expected. Use one feature network for everything that is compared."
            )
        values = features.detach().cpu().double()
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(
                "The feature network gave NaN or infinity. Its weights may be damaged, or of "
                "another network."
            )
        if len(values) == 0:
            return
        mean = values.mean(dim=0)
        centred = values - mean
        self._join(len(values), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Take in the samples of another process; the order of merging changes the last bits only.

        Raises:
            IncompatibleInputsError: if the numbers of features differ.
        """
        if other.num_features != self.num_features:
            raise IncompatibleInputsError(
                f"Statistics of {other.num_features} features cannot be merged into those of "
                f"{self.num_features}. Use one feature network for both."
            )
        if other.count:
            self._join(other.count, other.mean, other.scatter)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors, to be sent or written to a file."""
        return {
            "count": torch.tensor([self.count]),
            "mean": self.mean.clone(),
            "scatter": self.scatter.clone(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FeatureStatistics:
        """Return what `tensors` gave.

        Raises:
            InvalidInputError: if a tensor is missing, or the shapes do not belong together.
        """
        try:
            count, mean, scatter = (tensors[name] for name in ("count", "mean", "scatter"))
        except KeyError as error:
            raise InvalidInputError(
                f"These are no feature statistics: {error} is missing. Give what `tensors` gave."
            ) from error
        size = mean.numel()
        if mean.ndim != 1 or tuple(scatter.shape) != (size, size) or count.numel() != 1:
            raise InvalidInputError(
                f"These are no feature statistics: the mean has shape {tuple(mean.shape)} and the "
                f"scatter {tuple(scatter.shape)}. Give what `tensors` returned."
            )
        made = cls(size)
        made.count = int(count)
        made.mean, made.scatter = mean.to(torch.float64), scatter.to(torch.float64)
        return made

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total
