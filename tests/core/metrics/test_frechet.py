"""The Frechet distance and its statistics against closed forms and an independent package."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError, NonFiniteError
from latte_core.metrics import (
    FeatureStatistics,
    frechet_distance,
    gaussian_distance,
    needed_samples,
)

D = 6


def samples(count: int, seed: int = 0, features: int = D) -> Tensor:
    """Return correlated samples far from 0, float32."""
    generator = Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator)
    return torch.randn(count, features, generator=generator) @ mixing + 50


def statistics(*parts: Tensor) -> FeatureStatistics:
    made = FeatureStatistics(parts[0].shape[1])
    for part in parts:
        made.add(part)
    return made


def rotation(size: int, seed: int) -> Tensor:
    """Return an orthogonal matrix."""
    generator = Generator().manual_seed(seed)
    linalg: Any = torch.linalg
    return linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def test_mean_and_covariance_are_the_biased_ones_of_all_samples_in_any_batches() -> None:
    values = samples(40).double()
    made = statistics(*samples(40).split([7, 1, 20, 12]))
    expected = torch.cov(values.T, correction=0)
    assert made.count == 40
    assert torch.allclose(made.mean, values.mean(0), rtol=1e-12)
    assert torch.allclose(made.covariance, expected, rtol=1e-10)


def test_covariance_keeps_its_digits_far_from_zero() -> None:
    near = samples(40).double() - 50
    far = statistics(near + 1e7)
    assert torch.allclose(far.covariance, torch.cov(near.T, correction=0), rtol=1e-6)


@pytest.mark.parametrize("shares", [[40], [13, 27], [10, 20, 10], [0, 40]])
def test_processes_that_merge_know_what_one_would(shares: list[int]) -> None:
    values = samples(40)
    joined = FeatureStatistics(D)
    for part in values.split(shares):
        alone = statistics(part)
        joined.merge(FeatureStatistics.from_tensors(alone.tensors()))
    whole = statistics(values)
    assert joined.count == whole.count
    assert torch.allclose(joined.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(joined.covariance, whole.covariance, rtol=1e-12)


def test_distance_of_diagonal_covariances_is_the_sum_over_axes() -> None:
    means = torch.tensor([[0.0, 1.0, -2.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
    spreads = torch.tensor([[1.0, 4.0, 9.0], [2.0, 0.25, 9.0]], dtype=torch.float64)
    expected = ((means[0] - means[1]) ** 2 + (spreads[0].sqrt() - spreads[1].sqrt()) ** 2).sum()
    found = gaussian_distance(means[0], spreads[0].diag(), means[1], spreads[1].diag())
    assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("zeros", [0, 2])
def test_distance_of_commuting_covariances_does_not_depend_on_their_axes(zeros: int) -> None:
    turn = rotation(D, 1)
    first = torch.arange(1, D + 1, dtype=torch.float64)
    second = torch.tensor([3.0, 0.5, 2.0, 7.0, 0.1, 4.0], dtype=torch.float64)
    first[:zeros] = 0.0  # singular
    expected = float(((first.sqrt() - second.sqrt()) ** 2).sum()) + 4.0 * D
    mean = torch.zeros(D, dtype=torch.float64)
    found = gaussian_distance(
        mean, turn @ first.diag() @ turn.T, mean + 2, turn @ second.diag() @ turn.T
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_distance_of_two_by_two_covariances_has_its_own_formula() -> None:
    """tr sqrt(A B) of 2 x 2 matrices is sqrt(tr(A B) + 2 sqrt(det A det B))."""
    a = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.6], [-0.6, 3.0]], dtype=torch.float64)
    root = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    mean = torch.zeros(2, dtype=torch.float64)
    expected = float(a.trace() + b.trace() - 2 * root)
    assert gaussian_distance(mean, a, mean, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "features"), [(300, 40), (30, 40)])
def test_distance_agrees_with_torchmetrics(count: int, features: int) -> None:
    """It divides by one sample less than we do; the second case has singular covariances."""
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Given(nn.Module):
        num_features = features

        def forward(self, values: Tensor) -> Tensor:
            return values

    real, fake = samples(count, 2, features), samples(count + 5, 3, features)
    metric = fid.FrechetInceptionDistance(feature=Given())
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    one, two = statistics(real), statistics(fake)
    found = gaussian_distance(
        one.mean,
        one.covariance * count / (count - 1),
        two.mean,
        two.covariance * (count + 5) / (count + 4),
    )
    assert found == pytest.approx(float(metric.compute()), rel=1e-6)


def test_equal_sets_are_at_distance_zero() -> None:
    values = samples(500, features=64)
    one, two = statistics(values), statistics(*values.flip(0).split(77))
    assert frechet_distance(one, one) <= 1e-9 * float(one.covariance.trace())
    assert frechet_distance(one, two) <= 1e-9 * float(one.covariance.trace())


def test_equal_sets_with_fewer_samples_than_features_are_at_distance_zero_too() -> None:
    made = statistics(samples(20, features=64))
    found = gaussian_distance(made.mean, made.covariance, made.mean, made.covariance)
    assert found <= 1e-9 * float(made.covariance.trace())


def test_distance_grows_with_added_noise_and_does_not_depend_on_the_side() -> None:
    values = samples(400)
    generator = Generator().manual_seed(5)
    noise = torch.randn(values.shape, generator=generator)
    found = [
        frechet_distance(statistics(values), statistics(values + s * noise)) for s in (1, 2, 4)
    ]
    assert 0.1 < found[0] < found[1] < found[2]
    back = frechet_distance(statistics(values + 4 * noise), statistics(values))
    assert back == pytest.approx(found[2], rel=1e-9)


@pytest.mark.parametrize("side", ["real", "fake"])
def test_too_few_samples_are_refused_with_the_number_needed(side: str) -> None:
    few, enough = statistics(samples(D)), statistics(samples(needed_samples(D), 1))
    pair = (few, enough) if side == "real" else (enough, few)
    with pytest.raises(
        InvalidInputError, match=f"There are {D} samples on the {side} side.*{D + 1}"
    ):
        frechet_distance(*pair)
    assert frechet_distance(enough, enough) >= 0


def test_features_of_two_networks_are_not_compared() -> None:
    with pytest.raises(IncompatibleInputsError, match="6 features and the fake side 7"):
        frechet_distance(statistics(samples(20)), statistics(samples(20, features=7)))
    with pytest.raises(IncompatibleInputsError, match="cannot be merged"):
        statistics(samples(20)).merge(statistics(samples(20, features=7)))
    with pytest.raises(IncompatibleInputsError, match=r"\(samples, 6\)"):
        statistics(samples(20)).add(samples(20, features=7))


def test_nan_is_refused_and_no_samples_have_no_covariance() -> None:
    made = FeatureStatistics(2)
    with pytest.raises(NonFiniteError, match="NaN"):
        made.add(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(InvalidInputError, match="no samples"):
        _ = made.covariance
    with pytest.raises(InvalidInputError, match="scatter"):
        FeatureStatistics.from_tensors({"count": torch.tensor([1]), "mean": torch.zeros(2)})
