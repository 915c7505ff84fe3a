"""The kernel distance between two sets of features (KID; Binkowski et al., 2018).

The squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, without bias, averaged over
random subsets and given times 1000 (docs/model.md 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..errors import IncompatibleInputsError, InvalidInputError

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SCALE = 1000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelDistance:
    """A kernel distance times 1000.

    Args:
        mean: over the subsets; this is the KID.
        std: over the subsets; how far a single one lies from it.
    """

    mean: float
    std: float


def require_subset(real: int, fake: int, subset_size: int) -> None:
    """Refuse fewer samples than a subset takes.

    Raises:
        InvalidInputError: naming how many there are and how many are needed.
    """
    found = min(real, fake)
    if found < subset_size:
        raise InvalidInputError(
            f"There are {real} real and {fake} fake samples, but a KID with subsets of "
            f"{subset_size} needs at least {subset_size} on each side. Give more, or smaller "
            "subsets (--subset-size); published numbers use 1000."
        )


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    generator: Generator,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> KernelDistance:
    """Return the KID of two sets of features; it can fall a little below 0 for equal sources.

    Args:
        real: (N, D).
        fake: (M, D).
        generator: draws the subsets; the reference does not seed them.
        num_subsets: >= 1.
        subset_size: samples of each side in a subset, drawn without repetition, >= 2.

    Raises:
        InvalidInputError: for too few samples, or a subset of fewer than two.
        IncompatibleInputsError: for different numbers of features.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise IncompatibleInputsError(
            f"The features have shapes {tuple(real.shape)} and {tuple(fake.shape)}, but both must "
            "be (samples, features) of one network."
        )
    if num_subsets < 1 or subset_size < 2:
        raise InvalidInputError(
            f"{num_subsets} subsets of {subset_size} samples cannot give a KID: at least one "
            "subset of two samples is needed."
        )
    require_subset(len(real), len(fake), subset_size)
    pairs = _subsets(real, fake, generator, num_subsets, subset_size)
    values = SCALE * torch.stack([squared_discrepancy(x, y) for x, y in pairs])
    return KernelDistance(mean=float(values.mean()), std=float(values.std(correction=0)))


def squared_discrepancy(left: Tensor, right: Tensor) -> Tensor:
    """Return the unbiased squared discrepancy of two sets of one size, (M, D), in float64."""
    x, y = left.cpu().double(), right.cpu().double()
    size = len(x)
    within = _sum_of_pairs(x) + _sum_of_pairs(y)
    return within / (size * (size - 1)) - 2 * _kernel(x, y).mean()


def _sum_of_pairs(x: Tensor) -> Tensor:
    """Return the sum of the kernel over all pairs of different samples."""
    values = _kernel(x, x)
    return values.sum() - values.diagonal().sum()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _subsets(
    real: Tensor, fake: Tensor, generator: Generator, num_subsets: int, subset_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(num_subsets):
        drawn = [
            torch.randperm(len(one), generator=generator)[:subset_size] for one in (fake, real)
        ]
        yield real[drawn[1]], fake[drawn[0]]
