"""Steps that ask for the parts of guidance in one call, in several, or for one part alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from latte_test_support.cached_runs import STEPS, call, noise
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration import FirstBlock, StaticSchedule, StepCache, TeaCache, body_of
from latte_core.acceleration.policies import Policy
from latte_core.acceleration.step_cache import relative_change


def make_cache(model: Any, policy: Policy) -> StepCache:
    return StepCache(policy, body_of(model), num_steps=STEPS)


@pytest.fixture
def text_model() -> Any:
    return tiny_model(num_layers=3)


def test_a_part_that_is_left_out_at_times_is_treated_alike_in_one_batch_or_two_calls(
    text_model: Any,
) -> None:
    """As a guidance cache does: the negative half is asked for at every other step only."""
    plan = StaticSchedule(num_steps=STEPS, full_steps=(0, 1, 5))
    together, apart = make_cache(text_model, plan), make_cache(text_model, plan)

    def predict(cache: StepCache, step: int, names: Sequence[str]) -> Tensor:
        hooks = cache.hooks(timestep=900.0 - step, ids=names)
        latents = noise(step).repeat(len(names), 1, 1, 1, 1)
        return call(text_model, names, hooks)(latents, torch.tensor([900.0]))

    for step in range(STEPS):
        names = ["positive"] if step % 2 else ["negative", "positive"]
        expected = predict(together, step, names)
        found = torch.cat([predict(apart, step, [name]) for name in names])
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), step
    assert together.tally.full_steps == apart.tally.full_steps == 6  # also 2, 6 and the end
    assert together.tally.skipped_steps == apart.tally.skipped_steps == 2


@pytest.mark.parametrize("policy", [TeaCache(threshold=3.0), FirstBlock(threshold=1.0)])
def test_a_watched_part_decides_wherever_it_stands_in_the_batch(
    text_model: Any, policy: Policy
) -> None:
    """A host may stack the negative on top, and call the positive first where they are apart."""
    stacked, apart, alone = (make_cache(text_model, policy) for _ in range(3))

    def predict(cache: StepCache, step: int, names: Sequence[str], **more: Any) -> Tensor:
        hooks = cache.hooks(timestep=900.0 - step, ids=names, **more)
        latents = noise(step).repeat(len(names), 1, 1, 1, 1)
        if "positive" in names:
            latents[names.index("positive")] *= 1 + 0.3 * step  # only these rows change so
        return call(text_model, names, hooks)(latents, torch.tensor([900.0 - step]))

    for step in range(STEPS):
        expected = predict(stacked, step, ["negative", "positive"], watched=1)
        positive = predict(apart, step, ["positive"], others=["negative"])
        negative = predict(apart, step, ["negative"])
        found = torch.cat([negative, positive])
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), step
        predict(alone, step, ["positive"])
    assert stacked.tally.skipped_steps == apart.tally.skipped_steps > 0
    assert stacked.tally.full_steps == alone.tally.full_steps > 1


def test_a_step_is_full_if_a_call_that_is_known_to_follow_can_repeat_nothing(
    text_model: Any,
) -> None:
    cache = make_cache(text_model, StaticSchedule(num_steps=STEPS, full_steps=(0,)))

    def predict(step: int, name: str, others: Sequence[str] = ()) -> None:
        hooks = cache.hooks(timestep=900.0 - step, ids=[name], others=others)
        call(text_model, [name], hooks)(noise(step), torch.tensor([900.0]))

    predict(0, "positive")
    predict(1, "positive")
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (1, 1)
    for step, others in ((2, ["negative"]), (3, ["negative"])):
        predict(step, "positive", others)
        predict(step, "negative")
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (2, 2)
    assert cache.tally.forced_calls == 0


def test_change_of_several_videos_is_that_of_the_one_that_changed_most() -> None:
    before = noise(1, 3).flatten(2)
    now = before + torch.tensor([0.01, 0.5, 0.02]).view(3, 1, 1) * noise(2, 3).flatten(2)
    alone = [relative_change(now[k : k + 1], before[k : k + 1]) for k in range(3)]
    assert relative_change(now, before) == alone[1]
    assert alone[1] == float((now - before)[1].abs().mean() / before[1].abs().mean())


@pytest.mark.parametrize("policy", [TeaCache(threshold=0.2), FirstBlock(threshold=0.1)])
def test_step_is_computed_if_one_video_of_the_batch_needs_it(
    text_model: Any, policy: Policy
) -> None:
    def full_steps(moving: Sequence[float]) -> int:
        cache = make_cache(text_model, policy)
        for step in range(STEPS):
            hooks = cache.hooks(timestep=900.0 - step, ids=["positive"])
            change = torch.tensor([speed * step for speed in moving]).view(-1, 1, 1, 1, 1)
            latents = noise(1, len(moving)) + change * noise(2, len(moving))
            call(text_model, ["positive"], hooks)(latents, torch.tensor([900.0]))
        return cache.tally.full_steps

    still = [0.0] * 7
    assert full_steps([1.0, *still]) == full_steps([1.0]) > full_steps(still)
