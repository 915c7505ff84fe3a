"""The Inception Score of images (Salimans et al., 2016) and of videos (Saito et al., 2017).

exp of the mean divergence between the classes seen in one sample and those seen in all of them,
with the mean and the spread over ten parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInputError

NUM_SPLITS = 10
SHUFFLE_SEED = 42


@dataclass(frozen=True, kw_only=True, slots=True)
class InceptionScore:
    """A score between 1 and the number of classes.

    Args:
        mean: over the parts; this is the score.
        std: over the parts, dividing by their number.
    """

    mean: float
    std: float


def require_splits(found: int, num_splits: int) -> None:
    """Refuse samples that do not fill every part with two.

    Raises:
        InvalidInputError: naming how many there are and how many are needed.
    """
    if found < 2 * num_splits:
        raise InvalidInputError(
            f"There are {found} samples, but an Inception Score over {num_splits} parts needs at "
            f"least {2 * num_splits}; published numbers use 2048 or more. Give more videos."
        )


def inception_score(
    probabilities: Tensor, *, num_splits: int = NUM_SPLITS, shuffle_seed: int | None = None
) -> InceptionScore:
    """Return the score of samples.

    Args:
        probabilities: (N, classes), every row adds up to 1.
        num_splits: parts that are scored one by one.
        shuffle_seed: shuffles the samples first as numpy's `RandomState` does, so that no part
            holds one kind of video. The reference does so with 42 for videos; its pictures come
            in random order already.

    Raises:
        InvalidInputError: for too few samples, or rows that are no probabilities.
    """
    values = probabilities.detach().cpu().double()
    sums = values.sum(dim=1) if values.ndim == 2 else values.new_zeros(1)
    if bool((values < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise InvalidInputError(
            f"An Inception Score needs (samples, classes) of probabilities that add up to 1, but "
            f"{tuple(values.shape)} numbers with sums from {float(sums.min()):g} to "
            f"{float(sums.max()):g} were given. Use a network that classifies."
        )
    count = len(values)
    require_splits(count, num_splits)
    if shuffle_seed is not None:
        values = values[_numpy_order(count, shuffle_seed)]
    edges = [index * count // num_splits for index in range(num_splits + 1)]
    scores = torch.stack(
        [_score(values[start:end]) for start, end in zip(edges, edges[1:], strict=False)]
    )
    return InceptionScore(mean=float(scores.mean()), std=float(scores.std(correction=0)))


def _score(part: Tensor) -> Tensor:
    """Return exp of the mean divergence; a class of probability 0 adds nothing."""
    marginal = part.mean(dim=0, keepdim=True)
    divergence = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(dim=1)
    return divergence.mean().exp()


def _numpy_order(count: int, seed: int) -> Tensor:
    """Return the order in which numpy's seeded `shuffle` leaves rows 0, 1, 2 ..."""
    import numpy as np

    # parity: the reference shuffles with this generator
    order = np.random.RandomState(seed).permutation(count)
    return torch.tensor(order.tolist())
