"""The guidance cache against FasterCache's formula, and which rows it calls the model for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.acceleration import CacheSettings, GuidanceCache, GuidancePlan, RunCache
from latte_core.acceleration.guidance_cache import low_frequencies
from latte_core.errors import InvalidInputError
from latte_core.model.attention import BlockHooks
from latte_core.sampling import guided_in_one_batch

SHAPE = (2, 8, 3, 10, 15)  # B C F h w


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def formula(
    followed: Tensor, then: Tensor, other_then: Tensor, low_gain: float, high_gain: float
) -> Tensor:
    """FasterCache's reconstruction as the paper writes it, in Fourier space."""

    def spectrum(latents: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.fft2(latents[:, :4]), dim=(-2, -1))

    height, width = followed.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = min(height, width) // 5
    low = ((y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2).float()
    difference = spectrum(other_then) - spectrum(then)
    rebuilt = spectrum(followed) + low_gain * difference * low + high_gain * difference * (1 - low)
    return torch.fft.ifft2(torch.fft.ifftshift(rebuilt, dim=(-2, -1))).real


@pytest.mark.parametrize(("index", "gains"), [(40, (1.2, 1.0)), (45, (1.0, 1.2))])
def test_rebuilt_half_is_the_papers_formula(index: int, gains: tuple[float, float]) -> None:
    cache = GuidanceCache(50)
    cache.keep(39, draw(1), draw(2))
    made = cache.rebuild(index, draw(3))
    assert (made[:, :4] - formula(draw(3), draw(1), draw(2), *gains)).abs().max() <= 1e-5
    assert torch.equal(made[:, 4:], draw(3)[:, 4:])


def test_rebuilt_half_is_exact_while_the_difference_stays_the_same() -> None:
    cache = GuidanceCache(50, GuidancePlan(low_gain=1, high_gain=1))
    cache.keep(20, draw(1), draw(2))
    moved = draw(1) + 0.5
    assert (cache.rebuild(21, moved)[:, :4] - (draw(2) + 0.5)[:, :4]).abs().max() <= 1e-5


def test_low_frequencies_keep_the_mean_and_smooth_waves_alone() -> None:
    x = torch.arange(16) * 2 * torch.pi / 16
    slow, fast = torch.cos(2 * x).expand(16, 16), torch.cos(7 * x).expand(16, 16)
    made = low_frequencies(3 + slow + fast)
    assert (made - (3 + slow)).abs().max() <= 1e-5


def test_halves_are_left_out_as_often_as_in_the_paper() -> None:
    cache, halves = GuidanceCache(50), []
    for index in range(50):
        if cache.is_half(index):
            halves.append(index)
        else:
            cache.keep(index, draw(1), draw(2))
    assert len(halves) == 26
    assert halves[:6] == [17, 18, 19, 20, 22, 23]
    assert 49 not in halves


class Model:
    """Predicts 10 * row's name + latents; notes the rows of each call."""

    def __init__(self, names: Tensor) -> None:
        self.names = names
        self.calls: list[list[float]] = []

    def __call__(self, latents: Tensor, rows: slice) -> Tensor:
        names = self.names[rows]
        self.calls.append(names.tolist())
        return latents + 10 * names.view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("followed", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_half_step_calls_for_the_followed_rows_and_keeps_the_order(
    followed: int, batch: int
) -> None:
    names = torch.tensor([1.0] * batch + [2.0] * batch)  # of both halves
    model = Model(names)
    plan = GuidancePlan(start=0, period=3, low_gain=1, high_gain=1)
    run = RunCache(
        CacheSettings(policy="none", guidance=plan),
        torch.nn.Identity(),
        num_steps=6,
        ids=("first", "second"),
        followed=followed,
    )
    for step in range(6):
        latents = draw(step, (batch, 4, 2, 8, 8)).repeat(2, 1, 1, 1, 1)

        def forward(rows: slice, _: BlockHooks, given: Tensor = latents) -> Tensor:
            return model(given[rows], rows)

        made = run.predict(2 * batch, 900.0 - step, forward)
        assert (made - (latents + 10 * names.view(-1, 1, 1, 1, 1))).abs().max() <= 1e-4
    half, whole = [1.0 + followed] * batch, names.tolist()
    assert model.calls == [whole, half, half, whole, half, whole]
    assert run.report().half_steps == 3
    assert run.report().work == pytest.approx(0.75)


def test_guidance_follows_the_prompt_in_half_steps() -> None:
    plan = GuidancePlan(start=0, period=9, low_gain=1, high_gain=1)
    run = RunCache(
        CacheSettings(policy="none", guidance=plan),
        torch.nn.Identity(),
        num_steps=9,
        ids=("negative", "positive"),
        followed=1,
    )
    model = Model(torch.tensor([0.0, 1.0]))

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        return run.predict(2, float(timesteps[0]), lambda rows, _: model(latents[rows], rows))

    for step in range(3):
        latents = draw(step, (1, 4, 2, 8, 8))
        made = guided_in_one_batch(predict, 7.5)(latents, torch.tensor([900.0 - step]))
        assert (made - (latents + 75)).abs().max() <= 1e-4
    assert [len(rows) for rows in model.calls] == [2, 1, 1]


def test_a_half_that_was_never_computed_is_not_rebuilt() -> None:
    with pytest.raises(InvalidInputError, match="before both were computed"):
        GuidanceCache(50).rebuild(20, draw(1))
    cache = GuidanceCache(50)
    assert not any(cache.is_half(index) for index in range(50))


@pytest.mark.parametrize("wrong", [{"start": 1.5}, {"switch": -0.1}, {"period": 0}])
def test_a_plan_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        GuidancePlan(**wrong)
