"""Every shorter way through LatteT2V against the plain one, with the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model import attention as attention_module
from latte_core.model.attention import (
    BlockHooks,
    attend_across_frames,
    scaled_dot_product,
)
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv

RELATIVE = 1e-5


def regrouped(q: Tensor, k: Tensor, v: Tensor, heads: int, *given: Any, **more: Any) -> Tensor:
    return scaled_dot_product(q, k, v, heads, *given, **more)


# attention across frames on regrouped copies, and modulation made by each block
PLAIN = BlockHooks(attention=regrouped, text_in_blocks=True)


def inputs(batch: int = 2, frames: int = 3, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents and timesteps whose halves are equal, and text that differs."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(batch // 2, 4, frames, 6, 8, generator=generator)
    timesteps = torch.rand(batch // 2, generator=generator) * 999
    context = torch.randn(batch, 5, 24, generator=generator)
    return torch.cat([half, half]), torch.cat([timesteps, timesteps]), context


@torch.no_grad()
def run(model: LatteT2V, *given: Any, **options: Any) -> Tensor:
    return model(*given, **options)


def plain(model: LatteT2V, *given: Tensor, **options: Any) -> Tensor:
    """Run with one timestep per video, and with gradients, which take no short cut at one frame."""
    with torch.enable_grad():
        return model(*given, hooks=PLAIN, **options).detach()


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("is_temporal", [True, False])
def test_shared_input_gives_what_both_halves_give(batch: int, is_temporal: bool) -> None:
    model, given = tiny_model(), inputs(batch)
    expected = plain(model, *given, enable_temporal_attention=is_temporal)
    found = run(model, *given, shared_input=True, enable_temporal_attention=is_temporal)
    assert distance(found, expected) <= RELATIVE
    assert not torch.equal(found[: batch // 2], found[batch // 2 :])


def test_shared_input_takes_one_prompt_per_frame_and_masks() -> None:
    model, (latents, timesteps, _) = tiny_model(), inputs(4)
    context = torch.randn(4 * 3, 5, 24, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(4 * 3, 5)
    mask[::2, 3:] = 0
    expected = plain(model, latents, timesteps, context, mask)
    assert distance(run(model, latents, timesteps, context, mask, shared_input=True), expected) <= (
        RELATIVE
    )


def test_shared_input_computes_the_first_self_attention_for_half_the_batch() -> None:
    rows: list[tuple[str, int, int]] = []

    def watched(q: Tensor, *given: Any, **more: Any) -> Tensor:
        rows.append((more["kind"], more["block_index"], q.shape[0]))
        return scaled_dot_product(q, *given, **more)

    run(tiny_model(), *inputs(), shared_input=True, hooks=BlockHooks(attention=watched))
    spatial = [(index, count) for kind, index, count in rows if kind == "spatial"]
    assert spatial == [(0, 1 * 3), (1, 2 * 3)]


def test_shared_input_of_an_odd_batch_is_refused() -> None:
    given = [one[:1] for one in inputs()]
    with pytest.raises(InvalidInputError, match="1 videos.*even number"):
        run(tiny_model(), *given, shared_input=True)


@pytest.mark.parametrize("change", [0.0, 0.5])
def test_hook_around_a_shared_pair_sees_and_may_change_the_whole_batch(change: float) -> None:
    shapes: list[torch.Size] = []

    def run_block(index: int, fn: Any, hidden: Tensor, *rest: Tensor) -> Tensor:
        shapes.append(hidden.shape)
        if change:
            hidden = hidden + change * torch.arange(2.0)[:, None, None]
        return fn(hidden, *rest)

    model, given = tiny_model(), inputs()
    hooks = BlockHooks(run_block=run_block)
    expected = run(model, *given, hooks=hooks)
    assert distance(run(model, *given, hooks=hooks, shared_input=True), expected) <= RELATIVE
    assert set(shapes) == {torch.Size((2, 3 * 12, 16))}


@pytest.mark.parametrize("size", [(), (1,)])
def test_one_timestep_for_all_videos_equals_one_for_each(size: tuple[int, ...]) -> None:
    model, (latents, timesteps, context) = tiny_model(), inputs()
    expected = plain(model, latents, timesteps, context)
    found = run(model, latents, timesteps[0].reshape(size), context)
    assert distance(found, expected) <= RELATIVE


def test_hook_that_changes_the_modulation_is_heard() -> None:
    def darker(_: int, fn: Any, hidden: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        return fn(hidden, text, 0.5 * modulation)

    model, given = tiny_model(), inputs()
    hooks = BlockHooks(run_block=darker)
    in_blocks = BlockHooks(run_block=darker, text_in_blocks=True)
    found = run(model, *given, hooks=hooks)
    assert torch.equal(found, run(model, *given, hooks=in_blocks))
    assert distance(found, run(model, *given)) > 1e-3


@pytest.mark.parametrize("positions", [None, torch.tensor([[0, 4, 9], [3, 1, 7]])])
@pytest.mark.parametrize("frames", [3, 1])
def test_places_handed_in_give_the_same_bits(positions: Tensor | None, frames: int) -> None:
    model, given = tiny_model(), inputs(frames=frames)
    times = None if positions is None else positions[:, :frames]
    places = model.place_tables(given[0].shape, "cpu", times)
    assert torch.equal(run(model, *given, places=places), run(model, *given, frame_positions=times))


@pytest.mark.parametrize("size", [(2, 4, 4, 6, 8), (2, 4, 3, 8, 8), (2, 4, 1, 6, 8)])
def test_places_of_another_size_are_refused(size: tuple[int, ...]) -> None:
    model = tiny_model()
    places = model.place_tables(size, "cpu")
    with pytest.raises(IncompatibleInputsError, match="latents are 2 videos of 3 frames with 12"):
        run(model, *inputs(), places=places)


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 16), (16, 16), (17, 32), (120, 128), (128, 128), (129, 256)]
)
@pytest.mark.parametrize("kept", [None, 1, 0])
def test_text_may_be_padded_to_a_usual_length(length: int, padded: int, kept: int | None) -> None:
    model, (latents, timesteps, _) = tiny_model(), inputs()
    context = torch.randn(2, length, 24, generator=torch.Generator().manual_seed(1))
    mask = None if kept is None else (torch.arange(length) < kept).repeat(2, 1)
    with torch.no_grad():
        text = model.project_text(context, mask)
        model.pads_text = True
        longer = model.project_text(context, mask)
    assert longer.tokens.shape[1] == longer.keys[0].shape[1] == padded
    assert longer.padded() is longer
    found = run(model, latents, timesteps, text=longer)
    assert distance(found, run(model, latents, timesteps, text=text)) <= RELATIVE


def test_places_come_in_one_form_only() -> None:
    model, given = tiny_model(), inputs()
    places = model.place_tables(given[0].shape, "cpu")
    with pytest.raises(InvalidInputError, match="not both"):
        run(model, *given, places=places, frame_positions=torch.arange(3))


def test_noise_alone_is_the_first_half_of_the_channels() -> None:
    model, given = tiny_model(), inputs()
    found = run(model, *given, noise_only=True)
    assert found.shape == given[0].shape
    assert torch.equal(found, run(model, *given)[:, :4])


@pytest.mark.parametrize("fused", [False, True])
def test_single_frame_needs_no_attention_across_frames(fused: bool) -> None:
    kinds: list[str] = []

    def watched(*given: Any, **more: Any) -> Tensor:
        kinds.append(more["kind"])
        return scaled_dot_product(*given, **more)

    model, given = tiny_model(), inputs(frames=1)
    expected = plain(model, *given)
    if fused:
        fuse_qkv(model)
    assert distance(run(model, *given), expected) <= RELATIVE
    assert distance(run(model, *given, hooks=BlockHooks(attention=watched)), expected) <= RELATIVE
    assert set(kinds) == {"spatial", "cross"}


def test_single_frame_still_gives_every_weight_a_gradient() -> None:
    model, given = tiny_model(), inputs(frames=1)
    model(*given).square().mean().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_host_attention_across_frames_gets_frames_by_place_or_leaves_them_to_the_model(
    leaves: bool, fused: bool
) -> None:
    seen: list[tuple[torch.Size, int]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor, heads: int, *given: Any, **more: Any) -> Tensor:
        if more["kind"] == "temporal":
            seen.append((q.shape, heads))
            assert q.shape == k.shape == v.shape
        return scaled_dot_product(q, k, v, heads, *given, **more)

    model, given = tiny_model(), inputs()
    expected = plain(model, *given)
    if fused:
        fuse_qkv(model)
    watched.leaves_frames = leaves  # type: ignore[attr-defined]
    hooks = BlockHooks(attention=watched)
    assert distance(run(model, *given, hooks=hooks), expected) <= RELATIVE
    assert seen == ([] if leaves else [(torch.Size((24, 3, 16)), 2)] * 2)


@pytest.mark.parametrize("most", [65535, 20, 2])
def test_attention_across_frames_may_be_cut_into_calls(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_module, "MAX_HEADS", most)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 5 * 6, 2, 8, generator=generator)  # B F*S N D/N
    found = attend_across_frames(q, k, v, 5)
    score = torch.einsum("bfsne,bgsne->bsnfg", *(t.unflatten(1, (5, 6)) for t in (q, k))) / 8**0.5
    expected = torch.einsum("bsnfg,bgsne->bfsne", score.softmax(-1), v.unflatten(1, (5, 6)))
    torch.testing.assert_close(found, expected.flatten(1, 2).flatten(2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_all_short_ways_together_stay_within_rounding(fused: bool) -> None:
    model, given = tiny_model(), inputs()
    assert distance(shortest(model, *given, fused=fused), plain(model, *given)) <= RELATIVE


@pytest.mark.parametrize("fused", [False, True])
def test_all_short_ways_together_lose_no_more_to_bfloat16_than_the_plain_way(fused: bool) -> None:
    errors = {"plain": 0.0, "short": 0.0}
    for seed in range(16):
        model, (latents, timesteps, context) = tiny_model(seed).bfloat16(), inputs(seed=seed)
        halves = latents.bfloat16(), timesteps, context.bfloat16()
        exact = plain(copy.deepcopy(model).float(), halves[0].float(), timesteps, halves[2].float())
        ways = {"plain": plain(model, *halves), "short": shortest(model, *halves, fused=fused)}
        for name, found in ways.items():
            errors[name] += float((found.float() - exact).square().mean() / exact.square().mean())
    assert errors["short"] <= 1.02 * errors["plain"]  # about 0.97; processors round differently


def shortest(model: LatteT2V, *given: Tensor, fused: bool) -> Tensor:
    """Run as the pipeline does under guidance, with variance."""
    latents, timesteps, context = given
    if fused:
        fuse_qkv(model)
    text = model.project_text(context)
    places = model.place_tables(latents.shape, "cpu")
    return run(model, latents, timesteps[:1], text=text, places=places, shared_input=True)
