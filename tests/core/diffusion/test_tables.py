"""Tables and single steps of the diffusion against the formulas, written out here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from latte_core.diffusion import (
    Posterior,
    SpacedDiffusion,
    alphas_cumprod_of,
    check_eta,
    ddim_next,
    ddim_spread,
    linear_betas,
    scaled_linear_betas,
)
from latte_core.errors import InvalidInputError

STEPS = ("250", "50", "10,15,20", "ddim50", "1000", "2")


def formula_alphas() -> list[float]:
    """Products of 1 - beta for betas from 1e-4 to 2e-2, in Python floats."""
    products: list[float] = []
    product = 1.0
    for index in range(1000):
        product *= 1 - (1e-4 + index * (2e-2 - 1e-4) / 999)
        products.append(product)
    return products


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alpha_products_match_the_printed_digits() -> None:
    table = alphas_cumprod_of(linear_betas())
    printed = [0.9999, 0.9937354, 0.0777967, 5.90375e-05, 4.03583e-05]
    assert table[[0, 20, 500, 980, 999]].tolist() == pytest.approx(printed, rel=1e-5)


def test_tables_are_float64() -> None:
    diffusion = SpacedDiffusion.from_steps("250")
    tables = [linear_betas(), scaled_linear_betas(1e-4, 1e-2), diffusion.betas]
    tables += [diffusion.posterior.alphas_cumprod, diffusion.posterior.log_variances]
    assert {table.dtype for table in tables} == {torch.float64}


def test_respaced_betas_match_the_printed_digits() -> None:
    betas = SpacedDiffusion.from_steps("250").betas
    assert betas[:3].tolist() == pytest.approx([1.0e-4, 5.99066e-4, 9.17603e-4], rel=1e-5)
    assert betas[-2:].tolist() == pytest.approx([0.0772193, 0.0775193], rel=1e-5)


def test_clipped_log_variances_match_the_printed_digits() -> None:
    printed = [-9.364628, -9.364628, -7.831776]
    table = SpacedDiffusion.from_steps("250").posterior.log_variances
    assert table[:3].tolist() == pytest.approx(printed, abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_spaced_tables_keep_the_alphas_of_the_training(steps: str) -> None:
    diffusion, alphas = SpacedDiffusion.from_steps(steps), formula_alphas()
    expected = torch.tensor([alphas[timestep] for timestep in diffusion.timesteps])
    for table in (diffusion.posterior.alphas_cumprod, (1 - diffusion.betas).cumprod(0)):
        torch.testing.assert_close(table.float(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_posterior_is_the_product_of_its_two_gaussians(steps: str) -> None:
    """Bayes: precisions of q(next | clean) and q(now | next) add up, and means are weighed."""
    posterior = SpacedDiffusion.from_steps(steps).posterior
    clean, latents = drawn(2, 4, 3, 2, 4), drawn(2, 4, 3, 2, 4, seed=1)
    for index in range(1, len(posterior.betas), 7):
        beta = float(posterior.betas[index])
        before = float(posterior.next_alphas_cumprod[index])
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = (math.sqrt(1 - beta) / beta) * latents + (math.sqrt(before) / (1 - before)) * clean
        torch.testing.assert_close(posterior.mean(index, clean, latents), mean / precision)
        assert float(posterior.variances[index]) == pytest.approx(1 / precision, rel=1e-9)
        assert float(posterior.log_variances[index]) == pytest.approx(-math.log(precision))


def test_last_step_ends_at_the_clean_latents_without_noise() -> None:
    posterior = SpacedDiffusion.from_steps("250").posterior
    clean, latents = drawn(1, 4, 2, 2, 2), drawn(1, 4, 2, 2, 2, seed=1)
    torch.testing.assert_close(posterior.mean(0, clean, latents), clean)
    assert posterior.deviation(0, drawn(1, 8, 2, 2, 2)) == 0.0


@pytest.mark.parametrize(("logit", "bound"), [(-1.0, "lower"), (1.0, "upper"), (0.0, "middle")])
def test_variance_logits_choose_between_the_bounds(logit: float, bound: str) -> None:
    posterior = SpacedDiffusion.from_steps("50").posterior
    upper, lower = math.log(posterior.betas[20]), float(posterior.log_variances[20])
    expected = {"lower": lower, "upper": upper, "middle": (lower + upper) / 2}[bound]
    deviation = posterior.deviation(20, torch.full((1, 8, 1, 2, 2), logit, dtype=torch.float64))
    assert isinstance(deviation, Tensor) and deviation.shape == (1, 4, 1, 2, 2)
    assert deviation.log().mul(2).unique().tolist() == pytest.approx([expected])


@pytest.mark.parametrize("steps", ["50", "10,15,20", "ddim50"])
def test_model_without_variance_has_one_of_the_two_bounds(steps: str) -> None:
    posterior = SpacedDiffusion.from_steps(steps).posterior
    prediction = torch.zeros(1, 4, 1, 2, 2)
    for index in (1, 20, 44):
        lower, upper = float(posterior.variances[index]), float(posterior.betas[index])
        assert posterior.deviation(index, prediction) == pytest.approx(math.sqrt(lower))
        largest = posterior.deviation(index, prediction, takes_upper=True)
        assert largest == pytest.approx(math.sqrt(upper))
    assert posterior.deviation(0, prediction, takes_upper=True) == 0.0


@pytest.mark.parametrize("steps", ["1", "ddim1"])
def test_single_step_has_finite_tables(steps: str) -> None:
    posterior = SpacedDiffusion.from_steps(steps).posterior
    assert bool(torch.isfinite(posterior.log_variances).all())


@pytest.mark.parametrize("index", [0, 1, 120, 249])
def test_denoise_inverts_the_noising(index: int) -> None:
    diffusion = SpacedDiffusion.from_steps("250")
    clean, noise = drawn(2, 4, 3, 2, 4), drawn(2, 4, 3, 2, 4, seed=1)
    alpha = diffusion.alpha(index)
    noisy = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise
    torch.testing.assert_close(diffusion.denoise(index, noisy, noise), clean)


def test_spread_of_a_full_eta_is_the_deviation_of_the_posterior() -> None:
    posterior = SpacedDiffusion.from_steps("50").posterior
    for index in (0, 1, 25, 49):
        alpha, after = (
            float(posterior.alphas_cumprod[index]),
            float(posterior.next_alphas_cumprod[index]),
        )
        expected = math.sqrt(posterior.variances[index])
        assert ddim_spread(alpha, after, 1.0) == pytest.approx(expected)
        assert ddim_spread(alpha, after, 0.25) == pytest.approx(expected / 4)
        assert ddim_spread(alpha, after, 0.0) == 0.0


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_ddim_step_keeps_the_noise_level(spread: float) -> None:
    """For unit noise and clean latents known, the result has the variance of the next level."""
    clean, noise = drawn(2, 4, 3, 2, 4), drawn(2, 4, 3, 2, 4, seed=1)
    result = ddim_next(clean, noise, 0.6, spread)
    left = (result - math.sqrt(0.6) * clean) / noise
    torch.testing.assert_close(left**2 + spread**2, torch.full_like(left, 0.4))


def test_reverse_step_undoes_a_step() -> None:
    clean, noise = drawn(2, 4, 3, 2, 4), drawn(2, 4, 3, 2, 4, seed=1)
    torch.testing.assert_close(ddim_next(clean, noise, 0.0), noise)
    torch.testing.assert_close(ddim_next(clean, noise, 1.0), clean)


@pytest.mark.parametrize("eta", [-0.1, 1.01, math.nan, math.inf])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(InvalidInputError, match="eta is .* from 0 .* to 1"):
        check_eta(eta)


def test_posterior_follows_any_pair_of_levels() -> None:
    """A sampler may skip to a level that is not the next entry's."""
    posterior = Posterior(
        torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.8], dtype=torch.float64)
    )
    assert posterior.betas.tolist() == pytest.approx([0.1, 1 - 0.5 / 0.8])


def test_run_that_ends_above_clean_latents_keeps_its_own_last_variance() -> None:
    alphas = torch.tensor([0.9, 0.5], dtype=torch.float64)
    posterior = Posterior(alphas, torch.tensor([0.99, 0.9], dtype=torch.float64))
    expected = [(1 - 0.9 / 0.99) * 0.01 / 0.1, (1 - 0.5 / 0.9) * 0.1 / 0.5]
    assert posterior.log_variances.exp().tolist() == pytest.approx(expected)
    assert posterior.deviation(0, torch.zeros(1, 4, 1, 2, 2)) == pytest.approx(expected[0] ** 0.5)
