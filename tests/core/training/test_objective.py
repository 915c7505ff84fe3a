"""The training objective against the formulas of docs/model.md 7.1 and 10, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.training.objective import Objective

SHAPE = (3, 4, 5, 6, 2)  # three clips of 5 frames, not square


def schedule() -> tuple[Tensor, Tensor, Tensor]:
    """Return betas, cumulative alphas and those of the step before, (1000,) float64."""
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    return betas, alphas, torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])


def plain_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def written_out(output: Tensor, clean: Tensor, noise: Tensor, t: int) -> tuple[float, float]:
    """Return squared error and variational term of one clip, as the formulas say."""
    betas, alphas, before = schedule()
    output, clean, noise = output.double(), clean.double(), noise.double()
    beta, alpha, previous = betas[t], alphas[t], before[t]
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    guess, logits = output[:4], output[4:]
    guessed_clean = noisy / alpha.sqrt() - (1 / alpha - 1).sqrt() * guess
    clean_share = beta * previous.sqrt() / (1 - alpha)
    noisy_share = (1 - previous) * (1 - beta).sqrt() / (1 - alpha)
    true_mean = clean_share * clean + noisy_share * noisy
    mean = clean_share * guessed_clean + noisy_share * noisy
    variances = betas * (1 - before) / (1 - alphas)
    lower = torch.log(torch.cat([variances[1:2], variances[1:]]))[t]
    share = (logits + 1) / 2
    log_variance = share * beta.log() + (1 - share) * lower
    if t > 0:
        terms = 0.5 * (
            -1
            + log_variance
            - lower
            + torch.exp(lower - log_variance)
            + (true_mean - mean) ** 2 * torch.exp(-log_variance)
        )
    else:
        inverse = torch.exp(-0.5 * log_variance)
        upper = plain_cdf(inverse * (clean - mean + 1 / 255))
        under = plain_cdf(inverse * (clean - mean - 1 / 255))
        probability = torch.where(
            clean < -0.999, upper, torch.where(clean > 0.999, 1 - under, upper - under)
        )
        terms = -torch.log(probability.clamp(min=1e-12))
    squared = float(((noise - guess) ** 2).mean())
    return squared, float(terms.mean() / math.log(2))


def example(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a prediction, clean latents with values at both edges, and noise."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(SHAPE, generator=generator)
    noise = torch.randn(SHAPE, generator=generator)
    guess = noise + 0.3 * torch.randn(SHAPE, generator=generator)
    logits = torch.randn(SHAPE, generator=generator)
    return torch.cat([guess, logits], dim=1), clean, noise


@pytest.mark.parametrize("timestep", [0, 1, 2, 500, 999])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_is_the_formula(timestep: int, seed: int) -> None:
    output, clean, noise = example(seed)
    timesteps = torch.full((3,), timestep)
    found = Objective().losses(output, clean, noise, timesteps)
    for row in range(3):
        squared, variational = written_out(output[row], clean[row], noise[row], timestep)
        assert float(found.squared[row]) == pytest.approx(squared, rel=1e-6)
        assert float(found.variational[row]) == pytest.approx(variational, rel=1e-6)
        assert float(found.total[row]) == pytest.approx(squared + variational, rel=1e-6)


def test_clips_of_one_batch_do_not_mix() -> None:
    output, clean, noise = example(2)
    timesteps = torch.tensor([0, 7, 999])
    together = Objective().losses(output, clean, noise, timesteps)
    for row in range(3):
        part = slice(row, row + 1)
        alone = Objective().losses(output[part], clean[part], noise[part], timesteps[part])
        assert torch.equal(alone.total, together.total[part])


def test_variational_term_trains_the_variance_alone() -> None:
    output, clean, noise = example(3)
    output.requires_grad_(True)
    losses = Objective().losses(output, clean, noise, torch.tensor([0, 3, 800]))
    losses.variational.sum().backward()
    assert output.grad is not None
    assert torch.equal(output.grad[:, :4], torch.zeros(SHAPE))
    assert bool((output.grad[:, 4:].flatten(1).abs().sum(1) > 0).all())


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_noise_is_added_as_the_process_does(timestep: int) -> None:
    _, clean, noise = example(4)
    alpha = schedule()[1][timestep]
    noisy = Objective().add_noise(clean, noise, torch.full((3,), timestep))
    wanted = alpha.sqrt() * clean.double() + (1 - alpha).sqrt() * noise.double()
    assert float((noisy - wanted).abs().max()) < 1e-6


def test_a_perfect_prediction_with_the_lowest_variance_costs_nothing() -> None:
    _, clean, noise = example(5)
    output = torch.cat([noise, -torch.ones(SHAPE)], dim=1)
    losses = Objective().losses(output, clean, noise, torch.tensor([1, 500, 999]))
    assert torch.equal(losses.total, torch.zeros(3))


def test_a_model_without_variance_has_no_variational_term() -> None:
    output, clean, noise = example(6)
    losses = Objective().losses(output[:, :4], clean, noise, torch.tensor([0, 1, 2]))
    assert torch.equal(losses.variational, torch.zeros(3))
    assert torch.equal(losses.total, losses.squared)


def test_limited_weights_are_the_root_of_the_limited_ratio_over_the_ratio() -> None:
    timesteps = torch.tensor([0, 20, 500, 999])
    alphas = schedule()[1][timesteps]
    ratio = alphas / (1 - alphas)
    wanted = ratio.clamp(max=5).sqrt() / ratio
    found = Objective(weighting="min_snr").weights(timesteps)
    assert torch.allclose(found.double(), wanted, rtol=1e-5)
    assert torch.equal(Objective().weights(timesteps), torch.ones(4))


def test_variational_weight_scales_that_term_only() -> None:
    output, clean, noise = example(7)
    losses = Objective(variational_weight=0.25).losses(
        output, clean, noise, torch.tensor([0, 9, 99])
    )
    assert torch.allclose(losses.total, losses.squared + 0.25 * losses.variational)


def test_no_result_is_in_float64_so_that_devices_without_it_can_train() -> None:
    output, clean, noise = example(8)
    losses = Objective().losses(output.bfloat16(), clean, noise, torch.tensor([0, 1, 2]))
    assert losses.total.dtype == torch.float32
    tables = Objective().tables
    assert {getattr(tables, name).dtype for name in tables.__dataclass_fields__} == {torch.float32}


def test_other_channel_counts_and_weightings_are_refused() -> None:
    output, clean, noise = example(9)
    with pytest.raises(IncompatibleInputsError, match="predicts 6 channels"):
        Objective().losses(output[:, :6], clean, noise, torch.tensor([0, 1, 2]))
    with pytest.raises(InvalidInputError, match="min_snr"):
        Objective(weighting="snr")  # type: ignore[arg-type]
