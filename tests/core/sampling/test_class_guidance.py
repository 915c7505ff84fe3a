"""Guidance of the class-conditional Latte (docs/model.md 2.9), exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from torch import Tensor

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.sampling import forward_with_guidance

LABELS = torch.tensor([1, 4])
TIMES = torch.tensor([10, 700])
NULL = 5  # tiny_latte has 5 classes, 0 to 4


def latents() -> Tensor:
    return torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Table:
    """A model whose output depends on the label alone, and that writes down how it is called."""

    def __init__(self, **changes: Any) -> None:
        self.config = tiny_latte(**changes).config
        self.values = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
        self.calls: list[tuple[Tensor, Tensor, Tensor, dict[str, Any]]] = []

    def __call__(self, x: Tensor, timesteps: Tensor, labels: Tensor, **options: Any) -> Tensor:
        self.calls.append((x, timesteps, labels, options))
        return self.values[labels][:, :, None, None, None].expand(-1, -1, *x.shape[2:])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_noise_is_guided_and_variance_is_the_classs_own(scale: float) -> None:
    model = Table()
    result = forward_with_guidance(model, latents(), TIMES, LABELS, scale)
    followed, null = model.values[LABELS], model.values[NULL]
    expected = null[:4] + scale * (followed[:, :4] - null[:4])
    assert result.shape == (2, 8, 3, 8, 8)
    assert torch.equal(result[:, :4, 1, 2, 3], expected)
    assert torch.equal(result[:, 4:, 1, 2, 3], followed[:, 4:])


def test_class_comes_first_and_both_halves_see_the_same_latents_and_times() -> None:
    model, given = Table(), latents()
    forward_with_guidance(model, given, TIMES, LABELS, 7.0, enable_temporal_attention=False)
    [(seen, timesteps, labels, options)] = model.calls
    assert torch.equal(seen, torch.cat([given, given]))
    assert timesteps.tolist() == [10, 700, 10, 700]
    assert labels.tolist() == [1, 4, NULL, NULL]
    assert options == {"enable_temporal_attention": False}


@pytest.mark.parametrize("num_classes", [2, 101])
def test_null_class_is_the_number_of_classes(num_classes: int) -> None:
    model = tiny_latte(num_classes=num_classes)
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        guided = forward_with_guidance(model, latents(), TIMES, labels, 7.0)
        followed = model(latents(), TIMES, labels)
        null = model(latents(), TIMES, torch.full((2,), num_classes))
    expected = null[:, :4] + 7 * (followed[:, :4] - null[:, :4])
    torch.testing.assert_close(guided[:, :4], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided[:, 4:], followed[:, 4:])


def test_single_timestep_serves_all_videos() -> None:
    model = tiny_latte()
    with torch.no_grad():
        one = forward_with_guidance(model, latents(), torch.tensor(40), LABELS, 3.0)
        both = forward_with_guidance(model, latents(), torch.tensor([40, 40]), LABELS, 3.0)
    assert torch.equal(one, both)


def test_model_without_variance_gives_four_channels() -> None:
    model = tiny_latte(learn_sigma=False)
    with torch.no_grad():
        assert forward_with_guidance(model, latents(), TIMES, LABELS, 3.0).shape[1] == 4


def test_guidance_is_computed_in_float32() -> None:
    model = tiny_latte().to(torch.bfloat16)
    with torch.no_grad():
        result = forward_with_guidance(model, latents().bfloat16(), TIMES, LABELS, 3.0)
    assert result.dtype == torch.float32
    assert bool((result[:, :4].bfloat16().float() != result[:, :4]).any())


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": "none", "num_classes": 0},
        {"conditioning": "clip_text", "num_classes": 0, "text_features": 24},
    ],
)
def test_model_without_classes_cannot_be_guided(changes: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleInputsError, match="guidance scale of 1"):
        forward_with_guidance(tiny_latte(**changes), latents(), TIMES, LABELS, 3.0)


def test_function_without_a_config_cannot_be_guided() -> None:
    with pytest.raises(IncompatibleInputsError, match="no classes"):
        forward_with_guidance(lambda x, t, y: x, latents(), TIMES, LABELS, 3.0)


def test_model_without_a_null_class_cannot_be_guided() -> None:
    model = Table(class_dropout_prob=0.0)
    with pytest.raises(InvalidInputError, match="knows no such class"):
        forward_with_guidance(model, latents(), TIMES, LABELS, 3.0)
    assert not model.calls
