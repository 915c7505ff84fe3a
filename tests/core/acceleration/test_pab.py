"""Attention broadcast on tiny models: which attentions are computed, and whose results are used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from latte_test_support.cached_runs import NAMES, call, noise
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration import AttentionBroadcast, Broadcast
from latte_core.errors import InvalidInputError
from latte_core.model.attention import BlockHooks, scaled_dot_product

TIMESTEPS = [980.0 - 20 * step for step in range(50)]


class Counted:
    """Counts attention calls by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.hooks = BlockHooks(attention=self._attend)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, **about: Any) -> Tensor:
        self.kinds[about["kind"]] += 1
        return scaled_dot_product(q, k, v, heads, mask=about.get("mask"))


def run(
    model: Any, cache: AttentionBroadcast, inner: BlockHooks, names: Any = NAMES
) -> list[Tensor]:
    made: list[Tensor] = []
    for step, timestep in enumerate(TIMESTEPS):
        latents = noise(step).repeat(len(names), 1, 1, 1, 1)
        hooks = cache.hooks(inner, timestep=timestep, ids=names)
        made.append(call(model, names, hooks)(latents, torch.tensor(timestep)))
    return made


def computed(every: int) -> int:
    """Return the steps of 50 in which an attention is computed by the rule of the paper."""
    return sum(k % every == 0 or not 100 < t < 800 for k, t in enumerate(TIMESTEPS))


def test_lattes_defaults_compute_as_many_attentions_as_published() -> None:
    model, counted = tiny_model(), Counted()
    run(model, AttentionBroadcast(Broadcast(), num_steps=50), counted.hooks)
    layers = model.config.num_layers
    expected = {"spatial": computed(2), "temporal": computed(3), "cross": computed(6)}
    assert expected == {"spatial": 33, "temporal": 27, "cross": 22}
    assert counted.kinds == {kind: layers * count for kind, count in expected.items()}


@pytest.mark.parametrize("build", [tiny_model, lambda: tiny_latte(variant=3)])
def test_computing_every_step_changes_no_bit(build: Any) -> None:
    model, hooks = build(), Counted().hooks
    plan = Broadcast(spatial=1, temporal=1, cross=1)
    made = run(model, AttentionBroadcast(plan, num_steps=50), hooks)[:5]
    for step, prediction in enumerate(made):
        latents = noise(step).repeat(2, 1, 1, 1, 1)
        plain = call(model, NAMES, hooks)(latents, torch.tensor(TIMESTEPS[step]))
        assert torch.equal(prediction, plain)


def test_conditions_apart_use_their_own_results() -> None:
    model, hooks = tiny_model(), Counted().hooks
    together = run(model, AttentionBroadcast(Broadcast(), num_steps=50), hooks)
    cache = AttentionBroadcast(Broadcast(), num_steps=50)
    for step, timestep in enumerate(TIMESTEPS):
        for row, name in enumerate(NAMES):
            apart = cache.hooks(hooks, timestep=timestep, ids=[name])
            made = call(model, [name], apart)(noise(step), torch.tensor(timestep))
            scale = together[step].abs().max()
            assert (made - together[step][row : row + 1]).abs().max() <= 1e-5 * scale
    assert cache.tally.full_steps == 50


def test_results_of_another_size_are_not_used() -> None:
    model, counted = tiny_model(), Counted()
    cache = AttentionBroadcast(Broadcast(window=(0, 1000)), num_steps=50)
    for step, frames in enumerate((3, 2)):
        hooks = cache.hooks(counted.hooks, timestep=500.0 - step, ids=["positive"])
        latents = noise(step)[:, :, :frames]
        call(model, ["positive"], hooks)(latents, torch.tensor([500.0]))
    # frames are on the batch axis of spatial attention and on the token axis of the others
    assert counted.kinds == {"spatial": 4, "temporal": 4, "cross": 4}


def test_reset_begins_a_run_that_knows_nothing() -> None:
    model, hooks = tiny_model(), Counted().hooks
    cache = AttentionBroadcast(Broadcast(), num_steps=50)
    first = run(model, cache, hooks)
    cache.reset()
    again = run(model, cache, hooks)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def variant(number: int) -> Any:
    return lambda: tiny_latte(variant=number)


@pytest.mark.parametrize("build", [tiny_model, *map(variant, (1, 2, 3, 4))], ids=["text", *"1234"])
@pytest.mark.parametrize(
    "plan",
    [Broadcast(), Broadcast(spatial=1, cross=1), Broadcast(temporal=1)],
    ids=["all", "one", "two"],
)
def test_what_is_kept_is_what_is_reckoned(build: Any, plan: Broadcast) -> None:
    model, inside = build(), 500.0
    cache = AttentionBroadcast(plan, num_steps=50)
    latents = noise().repeat(2, 1, 1, 1, 1)
    if not hasattr(model.config, "caption_channels"):
        side = model.config.input_size
        latents = torch.zeros(2, 4, model.config.num_frames, side, side)
    hooks = cache.hooks(Counted().hooks, timestep=inside, ids=NAMES)
    call(model, NAMES, hooks)(latents, torch.tensor([inside]))
    tokens = latents.numel() // 4 // model.config.patch_size**2
    held = sum(one.nbytes for one in cache._kept.values())
    assert 0 < held == plan.kept_bytes(model, tokens, 4)


@pytest.mark.parametrize("wrong", [{"spatial": 0}, {"window": (800, 100)}])
def test_a_plan_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Broadcast(**wrong)
