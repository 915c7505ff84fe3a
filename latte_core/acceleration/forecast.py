"""Residuals of the last full steps, and what they say of the next (docs/acceleration.md 7).

The forecast is the polynomial through the residuals of the last full steps, evaluated at the step
in question. For evenly spaced steps that is Newton's formula of backward differences, which their
Taylor series approaches; the spacing of real schedules is uneven, and the polynomial takes it as it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_ORDER = 2


def forecast_weights(known: Sequence[float], wanted: float) -> list[float]:
    """Return the weight of each known value in the polynomial through all of them.

    Args:
        known: places of the values, all different.
        wanted: the place to evaluate the polynomial at.
    """
    weights: list[float] = []
    for one in known:
        weight = 1.0
        for other in known:
            if other != one:
                weight *= (wanted - other) / (one - other)
        weights.append(weight)
    return weights


class ResidualHistory:
    """The last residuals of one conditioning, newest last.

    Args:
        order: 0 repeats the newest, 1 continues the line through two, 2 the parabola through
            three; up to `MAX_ORDER`.
    """

    def __init__(self, order: int) -> None:
        self._size = order + 1
        self._places: list[float] = []
        self._residuals: list[Tensor] = []
        self.newest_step = -1

    def put(self, step: int, place: float, residual: Tensor) -> None:
        """Keep the residual of a step.

        Args:
            step: its index.
            place: its timestep; a residual of the same timestep is replaced.
            residual: any shape; another shape than before forgets what was kept.
        """
        if self._residuals and self._residuals[-1].shape != residual.shape:
            self._places, self._residuals = [], []
        if place in self._places:
            index = self._places.index(place)
            del self._places[index], self._residuals[index]
        self._places = [*self._places, place][-self._size :]
        self._residuals = [*self._residuals, residual][-self._size :]
        self.newest_step = step

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether residuals of this shape are kept."""
        return bool(self._residuals) and tuple(self._residuals[-1].shape) == tuple(shape)

    def at(self, place: float) -> Tensor:
        """Return the residual to expect at a timestep."""
        if len(self._residuals) == 1:
            return self._residuals[0]
        weights = forecast_weights(self._places, place)
        # the weights alternate in sign and exceed 1: sums in half precision would lose digits
        total = self._residuals[0].float() * weights[0]
        for residual, weight in zip(self._residuals[1:], weights[1:], strict=True):
            total = total.add_(residual.float(), alpha=weight)
        return total.to(self._residuals[-1].dtype)
