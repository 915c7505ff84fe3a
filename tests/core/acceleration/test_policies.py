"""Decisions of the policies: published step counts, ends, schedules made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from latte_core.acceleration.policies import (
    FirstBlock,
    Policy,
    StaticSchedule,
    Step,
    TeaCache,
    full_steps_for,
    hand_schedule,
)
from latte_core.errors import IncompatibleInputsError, InvalidInputError


def run_policy(policy: Policy, changes: Sequence[float | None], first: int = 0) -> list[int]:
    """Return the steps that a policy computes; one change for each step from `first` on."""
    full: list[int] = []
    carried = 0.0
    num_steps = first + len(changes)
    for index, change in enumerate(changes, first):
        step = Step(index=index, num_steps=num_steps, first=first)
        verdict = policy.decide(step, change, carried)
        carried = verdict.carried
        full += [index] if verdict.is_full else []
    return full


@pytest.mark.parametrize(("threshold", "count"), [(0.1, 26), (0.15, 18), (0.2, 14), (0.25, 11)])
def test_teacache_computes_the_published_number_of_steps(threshold: float, count: int) -> None:
    assert len(run_policy(TeaCache(threshold=threshold), [None, *[0.0232] * 49])) == count


def test_teacache_evaluates_lattes_polynomial() -> None:
    x = 0.1
    expected = -2464.34137 * x**4 + 308.044764 * x**3 + 80.7447667 * x**2 - 4.11385132 * x
    assert TeaCache().estimate(x) == pytest.approx(expected + 0.111001402, abs=1e-12)


def test_teacache_estimate_never_falls_and_is_never_negative() -> None:
    estimates = [TeaCache().estimate(k / 1000) for k in range(1000)]
    assert estimates == sorted(estimates)
    assert estimates[0] == pytest.approx(0.0622, abs=1e-4)


def test_teacache_starts_to_count_again_after_a_full_step() -> None:
    policy = TeaCache(threshold=0.15)
    assert run_policy(policy, [None, *[0.0232] * 8]) == [0, 3, 6, 8]


@pytest.mark.parametrize("change", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("policy", [TeaCache(threshold=9.0), FirstBlock(threshold=9.0)])
def test_a_step_without_a_usable_change_is_computed(policy: Policy, change: float | None) -> None:
    assert policy.decide(Step(index=3, num_steps=9), change, 0.0).is_full


def test_first_block_skips_below_its_threshold_alone() -> None:
    changes = [None, 0.09, 0.1, 0.11, 0.05, 0.0]
    assert run_policy(FirstBlock(threshold=0.1), changes) == [0, 2, 3, 5]


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    "policy",
    [
        TeaCache(threshold=1e6),
        FirstBlock(threshold=1e6),
        StaticSchedule(num_steps=10, full_steps=()),
    ],
)
def test_first_and_last_executed_step_are_always_computed(policy: Policy, first: int) -> None:
    assert run_policy(policy, [0.03] * (10 - first), first) == [first, 9]


@pytest.mark.parametrize("policy", [TeaCache(threshold=0.0), FirstBlock(threshold=0.0)])
def test_a_threshold_of_zero_skips_nothing(policy: Policy) -> None:
    assert run_policy(policy, [0.0] * 7) == list(range(7))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 20, 50, 99, 250])
@pytest.mark.parametrize("speed_up", [1, 1.25, 1.6, 2, 3.3, 10, 1000])
def test_hand_schedule_computes_as_many_steps_as_its_speed_up_says(
    num_steps: int, speed_up: float
) -> None:
    full = hand_schedule(num_steps, speed_up).full_steps
    assert len(full) == full_steps_for(num_steps, speed_up)
    assert (full[0], full[-1]) == (0, num_steps - 1)


@pytest.mark.parametrize("speed_up", [1.6, 2, 3.3])
def test_hand_schedule_is_dense_at_both_ends(speed_up: float) -> None:
    full = hand_schedule(50, speed_up).full_steps
    gaps = [after - before for before, after in zip(full, full[1:], strict=False)]
    assert gaps[:4] == [1, 1, 1, 1]
    assert gaps[-1] == 1
    middle = gaps[len(gaps) // 2 - 2 : len(gaps) // 2 + 3]
    assert max(gaps) - min(middle) <= 1 < max(gaps)


def test_a_schedule_says_in_advance_what_it_decides() -> None:
    schedule = hand_schedule(20, 2)
    for index in range(20):
        step = Step(index=index, num_steps=20)
        assert schedule.planned(step) == schedule.decide(step, None, 0.0).is_full
    assert TeaCache().planned(Step(index=5, num_steps=20)) is None


def test_a_schedule_refuses_a_run_of_another_length() -> None:
    with pytest.raises(IncompatibleInputsError, match="made for 50 model calls.*makes 20"):
        hand_schedule(50, 2).check(20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_steps": 5, "full_steps": (0, 5)},
        {"num_steps": 5, "full_steps": (2, 1)},
        {"num_steps": 5, "full_steps": (1, 1)},
        {"num_steps": 0, "full_steps": ()},
    ],
)
def test_a_schedule_of_steps_that_there_are_not_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        StaticSchedule(**wrong)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_numbers_that_mean_nothing_are_refused(value: float) -> None:
    with pytest.raises(InvalidInputError, match="threshold"):
        TeaCache(threshold=value)
    with pytest.raises(InvalidInputError, match="threshold"):
        FirstBlock(threshold=value)
    with pytest.raises(InvalidInputError, match="speed-up"):
        hand_schedule(10, value)
