"""KID and the Inception Score against closed forms and an independent package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.metrics import inception_score, kernel_distance
from latte_core.metrics.kernel_distance import squared_discrepancy


def drawn(count: int, features: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, features, generator=Generator().manual_seed(seed)) + shift


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_discrepancy_of_numbers_is_the_one_computed_by_hand() -> None:
    """With one feature the kernel is (x y + 1)^3; here its values are small whole numbers."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    within_x = (0 * 1 + 1) ** 3
    within_y = (1 * 2 + 1) ** 3
    across = ((0 + 1) ** 3 + (0 + 1) ** 3 + (1 + 1) ** 3 + (2 + 1) ** 3) / 4
    assert float(squared_discrepancy(x, y)) == within_x + within_y - 2 * across


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    """Subsets of all samples leave nothing to chance."""
    kid = pytest.importorskip("torchmetrics.image.kid")

    class Given(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values

    real, fake = drawn(30, 8, 1).double(), drawn(30, 8, 2, 0.5).double()
    with pytest.warns(UserWarning, match="memory"):
        metric = kid.KernelInceptionDistance(feature=Given(), subsets=2, subset_size=30)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.random.fork_rng(devices=[]):
        expected = float(metric.compute()[0])
    found = kernel_distance(real, fake, generator=generator(), num_subsets=2, subset_size=30)
    assert found.mean == pytest.approx(1000 * expected, rel=1e-6)
    assert found.std <= 1e-6 * abs(found.mean)


def test_kernel_distance_is_near_zero_for_one_source_and_grows_with_the_shift() -> None:
    real = drawn(300, 8, 1)
    found = [
        kernel_distance(
            real, drawn(300, 8, 2, shift), generator=generator(), num_subsets=20, subset_size=100
        ).mean
        for shift in (0.0, 0.3, 0.6)
    ]
    assert abs(found[0]) < 100 < found[1] < found[2]


def test_kernel_distance_repeats_with_the_seed_and_spreads_over_subsets() -> None:
    real, fake = drawn(50, 4, 1), drawn(60, 4, 2)
    options = {"num_subsets": 5, "subset_size": 20}
    one = kernel_distance(real, fake, generator=generator(3), **options)
    two = kernel_distance(real, fake, generator=generator(3), **options)
    other = kernel_distance(real, fake, generator=generator(4), **options)
    assert one == two != other
    assert one.std > 0


@pytest.mark.parametrize(("real", "fake"), [(19, 30), (30, 19)])
def test_too_few_samples_for_a_subset_are_refused_with_the_number(real: int, fake: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{real} real and {fake} fake.* at least 20"):
        kernel_distance(drawn(real, 4, 1), drawn(fake, 4, 2), generator=generator(), subset_size=20)


def test_subsets_and_features_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="two samples"):
        kernel_distance(drawn(9, 4, 1), drawn(9, 4, 2), generator=generator(), subset_size=1)
    with pytest.raises(IncompatibleInputsError, match="one network"):
        kernel_distance(drawn(9, 4, 1), drawn(9, 5, 2), generator=generator(), subset_size=2)


def test_score_of_sure_and_even_answers_is_the_number_of_classes() -> None:
    sure = torch.eye(5).repeat(8, 1)  # 40 samples, classes in turn
    found = inception_score(sure, num_splits=4)
    assert found.mean == pytest.approx(5.0, rel=1e-12)
    assert found.std == pytest.approx(0.0, abs=1e-12)


def test_score_of_equal_answers_is_one() -> None:
    found = inception_score(torch.full((20, 5), 0.2), num_splits=2)
    assert (found.mean, found.std) == (pytest.approx(1.0), pytest.approx(0.0))


def test_score_of_two_kinds_is_the_divergence_computed_by_hand() -> None:
    kinds = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = inception_score(kinds.repeat(10, 1), num_splits=1)
    assert found.mean == pytest.approx(math.exp(divergence), rel=1e-7)


def test_score_agrees_with_torchmetrics() -> None:
    """One part leaves nothing to its shuffling; its spread of one part is not a number."""
    inception = pytest.importorskip("torchmetrics.image.inception")

    class Given(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values

    logits = drawn(50, 7, 6).double()
    with pytest.warns(UserWarning, match="memory"):
        metric = inception.InceptionScore(feature=Given(), splits=1)
    metric.update(logits)
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning, match="std"):
        expected = float(metric.compute()[0])
    found = inception_score(logits.softmax(1), num_splits=1)
    assert found.mean == pytest.approx(expected, rel=1e-6)


def test_score_of_parts_is_their_mean_and_spread_in_numpys_seeded_order() -> None:
    values = drawn(43, 6, 7).softmax(1)
    order = np.arange(43)
    np.random.RandomState(42).shuffle(order)
    shuffled = values[torch.tensor(order.tolist())].double()
    scores = [
        inception_score(part, num_splits=1).mean
        for part in (shuffled[:14], shuffled[14:28], shuffled[28:])
    ]
    found = inception_score(values, num_splits=3, shuffle_seed=42)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.std == pytest.approx(np.std(scores), rel=1e-9)
    assert inception_score(values, num_splits=3).mean != pytest.approx(found.mean, rel=1e-6)


def test_too_few_samples_for_the_parts_are_refused_with_the_number() -> None:
    with pytest.raises(InvalidInputError, match="There are 19 samples.* at least 20"):
        inception_score(torch.full((19, 4), 0.25))
    assert inception_score(torch.full((20, 4), 0.25)).mean == pytest.approx(1.0)


@pytest.mark.parametrize("values", [torch.ones(20, 4), -torch.eye(4).repeat(5, 1), torch.ones(20)])
def test_numbers_that_are_no_probabilities_are_refused(values: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="add up to 1"):
        inception_score(values)
