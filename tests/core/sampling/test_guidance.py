"""Classifier-free guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latte_core.errors import InvalidInputError
from latte_core.sampling import guide, guided_in_one_batch, guided_in_two_calls, uses_guidance

SHAPE = (2, 8, 3, 4, 6)


def conditioned(shift: float, latents: Tensor, timesteps: Tensor) -> Tensor:
    base = latents + shift + timesteps.view(-1, 1, 1, 1, 1) / 1000
    return torch.cat([base, base.square()], dim=1)


def batch_of_both(latents: Tensor, timesteps: Tensor) -> Tensor:
    """Behave as a model whose conditioning is [negative (-1) ; positive (+2)]."""
    half = len(latents) // 2
    return torch.cat(
        [
            conditioned(-1, latents[:half], timesteps[:half]),
            conditioned(2, latents[half:], timesteps[half:]),
        ]
    )


def test_all_eight_channels_are_guided() -> None:
    negative = torch.zeros(SHAPE)
    assert torch.equal(guide(negative, torch.ones(SHAPE), 7.5), torch.full(SHAPE, 7.5))


def test_one_batch_and_two_calls_are_equal_and_negative_comes_first() -> None:
    latents = torch.randn((2, 4, 3, 4, 6), generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([7.0, 7.0])
    batched = guided_in_one_batch(batch_of_both, 3.0)(latents, timesteps)
    apart = guided_in_two_calls(
        lambda x, t: conditioned(-1, x, t), lambda x, t: conditioned(2, x, t), 3.0
    )(latents, timesteps)
    expected = guide(conditioned(-1, latents, timesteps), conditioned(2, latents, timesteps), 3.0)
    torch.testing.assert_close(batched, expected, rtol=0, atol=0)
    torch.testing.assert_close(apart, expected, rtol=0, atol=0)


def test_half_precision_predictions_are_guided_in_float32() -> None:
    negative = torch.full(SHAPE, 60000.0, dtype=torch.float16)
    guided = guide(negative, -negative, 7.5)
    assert guided.dtype == torch.float32
    assert bool(torch.isfinite(guided).all())


@pytest.mark.parametrize(("scale", "expected"), [(0.0, False), (1.0, False), (1.01, True)])
def test_guidance_is_on_only_above_one(scale: float, expected: bool) -> None:
    assert uses_guidance(scale) is expected


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_meaningless_scale_is_refused(scale: float) -> None:
    with pytest.raises(InvalidInputError, match="guidance_scale"):
        uses_guidance(scale)
