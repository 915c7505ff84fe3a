"""LatteT2V with frames whose places in time are given, as windows over a long video need it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.latte_formula import sincos
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.errors import IncompatibleInputsError
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.model.t2v.transformer import LatteT2V

FRAMES = 4


def inputs(frames: int = FRAMES, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    latents = torch.randn(batch, 4, frames, 4, 6, generator=generator)
    context = torch.randn(batch, 5, 24, generator=generator)
    return latents, torch.tensor([40.0, 900.0])[:batch], context


def placed(model: LatteT2V, *given: Tensor, positions: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model(*given, frame_positions=positions)


def before_first_temporal_block(model: LatteT2V, *given: Tensor, **more: Any) -> Tensor:
    """Return what the first temporal block is given, as (B, F, S, D)."""
    seen: list[Tensor] = []
    block = model.temporal_transformer_blocks[0]
    watch = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    placed(model, *given, **more)
    watch.remove()
    batch, _, frames = given[0].shape[:3]
    return seen[0].reshape(batch, frames, -1, 16)


@pytest.mark.parametrize("frames", [2, 4, 17])
def test_places_from_zero_on_are_the_default_bit_for_bit(frames: int) -> None:
    model, given = tiny_model(), inputs(frames)
    places = torch.arange(frames)
    default = placed(model, *given, positions=None)
    assert torch.equal(placed(model, *given, positions=places), default)
    assert torch.equal(placed(model, *given, positions=places.to(torch.uint8)), default)
    assert torch.equal(placed(model, *given, positions=places.expand(2, -1)), default)


@pytest.mark.parametrize("place", [0, 1, 3, 40])
def test_single_frame_gets_the_row_of_its_place(place: int) -> None:
    model, given = tiny_model(), inputs(1)
    without = before_first_temporal_block(model, *given, positions=None)
    found = before_first_temporal_block(model, *given, positions=torch.tensor([place]))
    expected = (without + sincos(16, place).float()).expand_as(found)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("places", [[3, 0, 2, 9], [5, 5, 6, 7]])
def test_each_frame_gets_the_row_of_its_own_place(places: list[int]) -> None:
    model, given = tiny_model(), inputs()
    default = before_first_temporal_block(model, *given, positions=None)
    found = before_first_temporal_block(model, *given, positions=torch.tensor(places))
    rows = torch.stack([sincos(16, new) - sincos(16, old) for old, new in enumerate(places)])
    expected = default + rows[:, None].float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", range(FRAMES))
def test_single_frame_is_that_frame_of_a_clip_whose_frames_do_not_mix(place: int) -> None:
    def alone(q: Tensor, k: Tensor, v: Tensor, *args: Any, kind: str, **more: Any) -> Tensor:
        return v if kind == "temporal" else scaled_dot_product(q, k, v, *args, **more)

    model, (latents, timesteps, context) = tiny_model(), inputs()
    with torch.no_grad():
        clip = model(latents, timesteps, context, hooks=BlockHooks(attention=alone))
    frame = latents[:, :, place : place + 1]
    found = placed(model, frame, timesteps, context, positions=torch.tensor([place]))
    torch.testing.assert_close(found, clip[:, :, place : place + 1], atol=1e-5, rtol=1e-5)


def test_each_video_may_have_places_of_its_own() -> None:
    model, given = tiny_model(), inputs()
    places = torch.tensor([[0, 1, 2, 3], [6, 7, 8, 2]])
    together = placed(model, *given, positions=places)
    for number, own in enumerate(places):
        one = [value[number, None] for value in given]
        alone = placed(model, *one, positions=own)
        torch.testing.assert_close(together[number, None], alone, atol=1e-5, rtol=1e-5)
        assert not torch.equal(alone, placed(model, *one, positions=places[1 - number]))


def test_without_temporal_attention_places_mean_nothing() -> None:
    model, given = tiny_model(), inputs()
    with torch.no_grad():
        plain = model(*given, enable_temporal_attention=False)
        places = torch.tensor([4, 5, 6, 7])
        found = model(*given, enable_temporal_attention=False, frame_positions=places)
    assert torch.equal(found, plain)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (torch.arange(3), r"shape \(3,\).*4 of them"),
        (torch.zeros(3, 4).long(), r"shape \(3, 4\)"),
        (torch.zeros(4, 2).long(), r"shape \(4, 2\)"),
        (torch.tensor(1), r"shape \(\)"),
        (torch.tensor([0, 1, -1, 2]), "lowest -1"),
        (torch.tensor([0.0, 1.5, 2.0, 3.0]), "float32.*whole numbers"),
        (torch.tensor([True, False, True, True]), "bool.*whole numbers"),
    ],
)
def test_places_that_do_not_fit_are_refused(positions: Tensor, words: str) -> None:
    with pytest.raises(IncompatibleInputsError, match=words):
        placed(tiny_model(), *inputs(), positions=positions)
