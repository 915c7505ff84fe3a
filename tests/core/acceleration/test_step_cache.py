"""The step cache on tiny models: what it skips, what it repeats, and what it never mixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.cached_runs import (
    NAMES,
    STEPS,
    Counted,
    call,
    calls,
    conditions,
    denoise,
    noise,
)
from latte_test_support.tiny.latte import IMAGE, NO_CLASSES, tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration import (
    FirstBlock,
    StaticSchedule,
    StepCache,
    TeaCache,
    body_of,
    hand_schedule,
)
from latte_core.acceleration.policies import Policy, Step, Verdict
from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.training.denoiser import CHECKPOINTED

MODELS: dict[str, Any] = {
    "text": lambda: tiny_model(num_layers=3),
    "class": lambda: tiny_latte(depth=6),
    "variant 2": lambda: tiny_latte(variant=2),
    "variant 4": lambda: tiny_latte(variant=4),
    "tokens": lambda: tiny_latte(injection="tokens"),
}
HALF = hand_schedule(STEPS, 2)
# A network of random weights changes far more from step to step than one that was trained.
POLICIES: dict[str, Policy] = {
    "static": HALF,
    "teacache": TeaCache(threshold=3.0),
    "first block": FirstBlock(threshold=1.0),
}


def make_cache(
    model: Any, policy: Policy = HALF, *, num_steps: int = STEPS, **more: Any
) -> StepCache:
    return StepCache(policy, body_of(model), num_steps=num_steps, **more)


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


@pytest.fixture
def text_model() -> Any:
    return MODELS["text"]()


@pytest.mark.parametrize("forecast", [0, 2])
@pytest.mark.parametrize(
    "policy",
    [hand_schedule(STEPS, 1), TeaCache(threshold=0.0), FirstBlock(threshold=0.0)],
    ids=["static", "teacache", "first block"],
)
def test_a_cache_that_never_skips_changes_no_bit(model: Any, policy: Policy, forecast: int) -> None:
    cache = make_cache(model, policy, forecast=forecast)
    assert torch.equal(denoise(model, cache), denoise(model, None))
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (STEPS, 0)
    assert cache.tally.work == cache.tally.whole


@pytest.mark.parametrize("forecast", [0, 1, 2])
def test_a_schedule_runs_exactly_its_steps(model: Any, forecast: int) -> None:
    counted, cache = Counted(), make_cache(model, forecast=forecast)
    made = denoise(model, cache, inner=counted.hooks)
    units = cache.body.num_units
    assert counted.indices == list(range(units)) * len(HALF.full_steps)
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (4, 4)
    assert cache.tally.work == pytest.approx(0.5 * cache.tally.whole)
    assert cache.tally.forced_calls == 0
    assert not torch.equal(made, denoise(model, None))


@pytest.mark.parametrize("name", ["teacache", "first block"])
def test_measuring_policies_skip_some_steps_and_run_the_rest(model: Any, name: str) -> None:
    if name == "first block" and body_of(model).num_units < 2:
        pytest.skip("has one unit")
    counted, cache = Counted(), make_cache(model, POLICIES[name])
    denoise(model, cache, inner=counted.hooks)
    tally, units = cache.tally, cache.body.num_units
    assert tally.skipped_steps > 0
    assert tally.full_steps + tally.skipped_steps == STEPS
    in_skipped = tally.skipped_steps if name == "first block" else 0
    assert len(counted.indices) == tally.full_steps * units + in_skipped
    assert tally.work == 2 * len(counted.indices)  # two rows


def test_first_block_computes_first_and_last_step_and_the_first_pair_of_all(
    text_model: Any,
) -> None:
    counted = Counted()
    cache = make_cache(text_model, FirstBlock(threshold=1e9))
    denoise(text_model, cache, inner=counted.hooks)
    assert counted.indices == [0, 1, 2, *[0] * (STEPS - 2), 0, 1, 2]


class FirstTwo(FirstBlock):
    """Computes the first two steps, and the first pair of blocks of all others."""

    def decide(self, step: Step, change: float | None, carried: float) -> Verdict:
        return Verdict(step.index < 2)


@pytest.mark.parametrize("forecast", [0, 1])
@pytest.mark.parametrize(
    ("policy", "start"),
    [(StaticSchedule(num_steps=STEPS, full_steps=(0, 1)), 0), (FirstTwo(), 1)],
    ids=["all blocks", "all but the first pair"],
)
def test_a_skipped_step_adds_what_the_blocks_added_before(
    text_model: Any, policy: Policy, start: int, forecast: int
) -> None:
    times, inputs = torch.tensor([980.0, 960.0, 930.0]), [noise(seed, 2) for seed in range(3)]
    added: list[Tensor] = []

    def record(index: int, fn: Any, hidden: Tensor, *rest: Tensor) -> Tensor:
        if index == start:
            added.append(-hidden)
        hidden = fn(hidden, *rest)
        if index == text_model.config.num_layers - 1:
            added[-1] = added[-1] + hidden
        return hidden

    def repeat(index: int, fn: Any, hidden: Tensor, *rest: Tensor) -> Tensor:
        if index < start:
            return fn(hidden, *rest)
        further = 1.5 * (added[1] - added[0]) if forecast else 0  # 30 timesteps on, after 20
        return hidden + added[1] + further if index == start else hidden

    def predict(step: int, hooks: BlockHooks) -> Tensor:
        return call(text_model, NAMES, hooks)(inputs[step], times[step])

    for step in (0, 1):
        predict(step, BlockHooks(run_block=record))
    expected = predict(2, BlockHooks(run_block=repeat))
    cache = make_cache(text_model, policy, forecast=forecast)
    made = [predict(step, cache.hooks(timestep=float(times[step]), ids=NAMES)) for step in range(3)]
    assert cache.tally.skipped_steps == 1
    assert (made[2] - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("forecast", [0, 1, 2])
@pytest.mark.parametrize("name", list(POLICIES))
def test_conditions_in_one_batch_and_apart_give_the_same(
    model: Any, name: str, forecast: int
) -> None:
    together = make_cache(model, POLICIES[name], forecast=forecast)
    apart = make_cache(model, POLICIES[name], forecast=forecast)
    one = denoise(model, together)
    two = denoise(model, apart, is_apart=True)
    assert (one - two).abs().max() <= 1e-5 * one.abs().max()
    assert together.tally.skipped_steps > 0
    assert together.tally == apart.tally


@pytest.mark.parametrize("stop_after", range(STEPS))
def test_a_run_after_a_cancelled_one_is_a_fresh_run(text_model: Any, stop_after: int) -> None:
    class Cancelled(Exception):
        pass

    def stop(info: Any) -> None:
        if info.step == stop_after:
            raise Cancelled

    fresh = denoise(text_model, make_cache(text_model, forecast=1))
    cache = make_cache(text_model, forecast=1)
    with pytest.raises(Cancelled):
        denoise(text_model, cache, callback=stop, seed=5)
    assert torch.equal(denoise(text_model, make_cache(text_model, forecast=1)), fresh)
    cache.reset()
    assert torch.equal(denoise(text_model, cache), fresh)


def test_a_call_that_fails_may_be_repeated_in_the_same_step(text_model: Any) -> None:
    fails_at = [(3, 1), (6, 2)]  # step, pair of blocks
    cache = make_cache(text_model, TeaCache(threshold=3.0))
    state = {"step": -1}

    def run(index: int, fn: Any, *tensors: Tensor) -> Tensor:
        if (state["step"], index) in fails_at:
            fails_at.remove((state["step"], index))
            raise MemoryError
        return fn(*tensors)

    made: list[Tensor] = []
    for is_broken in (False, True):
        cache.reset()
        for step in range(STEPS):
            state["step"] = step if is_broken else -1
            hooks = cache.hooks(BlockHooks(run_block=run), timestep=900.0 - step, ids=NAMES)
            predict = call(text_model, NAMES, hooks)
            given = (noise(step, 2), torch.tensor(900.0 - step))
            try:
                made.append(predict(*given))
            except MemoryError:
                made.append(predict(*given))
        assert cache.tally.full_steps + cache.tally.skipped_steps == STEPS
    assert torch.equal(torch.stack(made[:STEPS]), torch.stack(made[STEPS:]))


def test_two_runs_in_turns_do_not_mix(model: Any) -> None:
    alone = [list(calls(model, make_cache(model, forecast=1), seed)) for seed in (3, 4)]
    first, second = (calls(model, make_cache(model, forecast=1), seed) for seed in (3, 4))
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(one, alone[0][step])
        assert torch.equal(other, alone[1][step])
        assert not torch.equal(one, other)


def test_the_model_is_left_as_it_was(model: Any) -> None:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [sorted(vars(module)) for module in model.modules()]
    denoise(model, make_cache(model, TeaCache(threshold=3.0)))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [sorted(vars(module)) for module in model.modules()] == attributes


def test_the_watched_tokens_are_what_the_first_block_attends_with(model: Any) -> None:
    seen: list[Tensor] = []
    expected: list[Tensor] = []

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **about: Any) -> Tensor:
        if about["kind"] == "spatial" and about["block_index"] == 0:
            seen.append(q)
        return scaled_dot_product(q, k, v, heads, mask=about.get("mask"))

    def run(index: int, fn: Any, hidden: Tensor, context: Tensor, modulation: Tensor) -> Tensor:
        if index == 0:
            tokens = body_of(model).first_input(hidden, modulation)
            expected.append(queries_of(model, tokens))
        return fn(hidden, context, modulation)

    hooks = BlockHooks(attention=attention, run_block=run)
    call(model, NAMES, hooks)(noise(0, 2), torch.tensor([500.0, 500.0]))
    assert (seen[0].flatten() - expected[0].flatten()).abs().max() <= 1e-5


def queries_of(model: Any, tokens: Tensor) -> Tensor:
    """Return the queries of the first spatial attention for its input."""
    if hasattr(model, "transformer_blocks"):
        return model.transformer_blocks[0].attn1.to_q(tokens)
    return model.blocks[0].attn.qkv(tokens).chunk(3, dim=-1)[0]


def test_rows_belong_to_their_names_in_whatever_order_they_come(model: Any) -> None:
    def predict(cache: StepCache, step: int, names: tuple[str, ...]) -> Tensor:
        hooks = cache.hooks(timestep=900.0 - step, ids=names)
        return call(model, names, hooks)(noise(step).repeat(2, 1, 1, 1, 1), torch.tensor(900.0))

    one, other = make_cache(model), make_cache(model)
    for step in range(STEPS):
        straight = predict(one, step, NAMES)
        turned = predict(other, step, NAMES[::-1] if step % 2 else NAMES)
        if step % 2:
            turned = turned.flip(0)
        assert (straight - turned).abs().max() <= 1e-5 * straight.abs().max()
    assert one.tally.skipped_steps == other.tally.skipped_steps > 0


def test_windows_keep_residuals_of_their_own(text_model: Any) -> None:
    cache, counted = make_cache(text_model), Counted()
    for step in range(STEPS):
        for window in range(3):
            hooks = cache.hooks(counted.hooks, timestep=900.0 - step, ids=[(window, "positive")])
            latents = noise(window)
            call(text_model, ["positive"], hooks)(latents, torch.tensor([900.0]))
    assert cache.tally.full_steps == len(HALF.full_steps)
    assert len(counted.indices) == 3 * len(HALF.full_steps) * text_model.config.num_layers


def test_a_step_whose_first_call_can_repeat_nothing_is_computed_in_full(text_model: Any) -> None:
    plan = StaticSchedule(num_steps=STEPS, full_steps=(0,))
    cache, counted = make_cache(text_model, plan), Counted()

    def predict(step: int, names: tuple[str, ...]) -> Tensor:
        hooks = cache.hooks(counted.hooks, timestep=900.0 - step, ids=names)
        latents = noise(step).repeat(len(names), 1, 1, 1, 1)
        return call(text_model, names, hooks)(latents, torch.tensor(900.0))

    predict(0, ("positive",))
    computed = len(counted.indices)
    predict(1, NAMES)
    assert len(counted.indices) == 2 * computed
    predict(2, NAMES)
    assert len(counted.indices) == 2 * computed
    tally = cache.tally
    assert (tally.full_steps, tally.skipped_steps, tally.forced_calls) == (2, 1, 0)


def test_a_later_call_of_which_nothing_is_known_is_computed_in_a_skipped_step(
    text_model: Any,
) -> None:
    plan = StaticSchedule(num_steps=STEPS, full_steps=(0,))
    cache, counted = make_cache(text_model, plan), Counted()

    def predict(step: int, name: str) -> None:
        hooks = cache.hooks(counted.hooks, timestep=900.0 - step, ids=[name])
        call(text_model, [name], hooks)(noise(step), torch.tensor([900.0]))

    predict(0, "positive")
    computed = len(counted.indices)
    for step in (1, 2):
        for name in ("positive", "negative"):
            predict(step, name)
        assert len(counted.indices) == 2 * computed
    tally = cache.tally
    assert (tally.full_steps, tally.skipped_steps, tally.forced_calls) == (1, 2, 1)


def test_residuals_older_than_the_last_full_step_are_not_used(text_model: Any) -> None:
    plan = StaticSchedule(num_steps=STEPS, full_steps=(0, 1))
    cache = make_cache(text_model, plan)

    def predict(step: int, names: tuple[str, ...]) -> None:
        hooks = cache.hooks(timestep=900.0 - step, ids=names)
        latents = noise(step).repeat(len(names), 1, 1, 1, 1)
        call(text_model, names, hooks)(latents, torch.tensor(900.0))

    predict(0, NAMES)
    predict(1, ("positive",))
    predict(2, ("positive",))
    assert cache.tally.full_steps == 2
    predict(3, NAMES)
    assert cache.tally.full_steps == 3


def test_another_size_is_computed_anew(text_model: Any) -> None:
    cache = make_cache(text_model, StaticSchedule(num_steps=STEPS, full_steps=(0,)))
    for step, frames in enumerate((3, 2, 2)):
        latents = noise(step)[:, :, :frames]
        hooks = cache.hooks(timestep=900.0 - step, ids=["positive"])
        call(text_model, ["positive"], hooks)(latents, torch.tensor([900.0]))
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (2, 1)


def test_a_run_that_starts_later_computes_its_own_first_step(text_model: Any) -> None:
    plan = StaticSchedule(num_steps=STEPS, full_steps=(0, 5))
    cache, counted = make_cache(text_model, plan, first_step=3), Counted()
    computed: list[int] = []
    for step in range(3, STEPS):
        hooks = cache.hooks(counted.hooks, timestep=900.0 - step, ids=["positive"])
        call(text_model, ["positive"], hooks)(noise(step), torch.tensor([900.0]))
        computed += [step] if counted.indices else []
        counted.indices.clear()
    assert computed == [3, 5, 7]


@pytest.mark.parametrize("inner", [CHECKPOINTED, BlockHooks(text_in_blocks=True)])
def test_a_cache_works_with_hooks_of_training(text_model: Any, inner: BlockHooks) -> None:
    plain = denoise(text_model, make_cache(text_model))
    hooked = denoise(text_model, make_cache(text_model), inner=inner)
    assert (plain - hooked).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize("build", [lambda: tiny_latte(**NO_CLASSES), lambda: tiny_latte(**IMAGE)])
def test_models_without_classes_or_time_can_be_cached(build: Any) -> None:
    model, cache = build(), None
    cache = make_cache(model)
    labels = conditions(model)["positive"].expand(1) if model.config.num_classes else None
    for step in range(STEPS):
        hooks = cache.hooks(timestep=900.0 - step)
        frames = 1 if not model.config.has_temporal else 3
        model(noise(step)[:, :, :frames], torch.tensor([900 - step]), labels, hooks=hooks)
    assert (cache.tally.full_steps, cache.tally.skipped_steps) == (4, 4)


def test_what_cannot_be_cached_is_refused(text_model: Any) -> None:
    with pytest.raises(IncompatibleInputsError, match="made for 8 model calls"):
        make_cache(text_model, num_steps=9)
    with pytest.raises(InvalidInputError, match="forecast"):
        make_cache(text_model, forecast=3)
    with pytest.raises(IncompatibleInputsError, match="no others"):
        make_cache(tiny_model(num_layers=1), FirstBlock())
    with pytest.raises(IncompatibleInputsError, match="Linear"):
        body_of(torch.nn.Linear(1, 1))
    cache = make_cache(text_model)
    with pytest.raises(InvalidInputError, match="different name"):
        cache.hooks(timestep=1.0, ids=("a", "a"))
    hooks = cache.hooks(timestep=1.0, ids=("a", "b", "c"))
    with pytest.raises(IncompatibleInputsError, match="2 videos was said to hold 3"):
        call(text_model, NAMES, hooks)(noise(0, 2), torch.tensor([1.0]))
