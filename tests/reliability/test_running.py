"""While it runs: docs/faults.md 4. R32 in every sampler is in core/sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import write_tiny_latte
from torch import Tensor

from latte_core.errors import NonFiniteError
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.types import StepInfo
from latte_core.video import write_video

PROMPT = "a red circle moving left"
SMALL: dict[str, Any] = {"num_frames": 2, "height": 32, "width": 48, "num_steps": 4}
SAMPLERS = ["ddim", "euler_ancestral", "heun", "dpmsolver_multistep"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_pretrained(write_tiny_latte(tmp_path_factory.mktemp("r")), device="cpu")


class Stop(Exception):
    """What a host raises to cancel."""


class FailingCall:
    """Replaces the result of the n-th model call; a forward hook."""

    def __init__(self, fail_at: int, outcome: BaseException | None) -> None:
        self.fail_at = fail_at
        self.outcome = outcome
        self.calls = 0

    def __call__(self, module: object, given: object, result: Tensor) -> Tensor:
        self.calls += 1
        if self.calls < self.fail_at:
            return result
        if self.outcome is not None:
            raise self.outcome
        return result * float("nan")


@pytest.mark.parametrize("fail_at", [1, 3, 4])
def test_r32_nan_from_the_transformer_stops_at_its_step_and_writes_nothing(
    pipeline: Pipeline, tmp_path: Path, fail_at: int
) -> None:
    hook = FailingCall(fail_at, None)
    handle = pipeline.parts.transformer.register_forward_hook(hook)
    try:
        with pytest.raises(NonFiniteError, match=rf"step {fail_at} of 4.*float32"):
            result = pipeline(PROMPT, **SMALL)
            write_video(tmp_path / "clip.mp4", result.frames)
    finally:
        handle.remove()
    assert hook.calls == fail_at
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("step", [0, 2, 3])
def test_r36_r37_cancel_reaches_the_caller_unchanged_and_the_next_run_is_fresh(
    pipeline: Pipeline, sampler: str, step: int
) -> None:
    expected = pipeline(PROMPT, **SMALL, sampler=sampler, seed=4).latents
    stop, seen = Stop(), []

    def cancel(info: StepInfo) -> None:
        seen.append(info.step)
        if info.step == step:
            raise stop

    with pytest.raises(Stop) as caught:
        pipeline(PROMPT, **SMALL, sampler=sampler, seed=4, callback=cancel)
    assert caught.value is stop
    assert seen == list(range(step + 1))
    assert torch.equal(pipeline(PROMPT, **SMALL, sampler=sampler, seed=4).latents, expected)


@pytest.mark.parametrize("fail_at", [1, 2, 4])
def test_r33_out_of_memory_keeps_its_type_and_the_next_run_is_fresh(
    pipeline: Pipeline, fail_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pipeline(PROMPT, **SMALL).latents
    failure = torch.OutOfMemoryError("out of memory")
    handle = pipeline.parts.transformer.register_forward_hook(FailingCall(fail_at, failure))
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            pipeline(PROMPT, **SMALL)
    finally:
        handle.remove()
    assert caught.value is failure
    assert "height=32" in caplog.text
    assert torch.equal(pipeline(PROMPT, **SMALL).latents, expected)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler_ancestral", "kdpm2_ancestral", "pndm"])
def test_r40_global_random_state_is_untouched_by_a_run(pipeline: Pipeline, sampler: str) -> None:
    before = torch.get_rng_state()
    pipeline(PROMPT, **SMALL, sampler=sampler, eta=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_r40_two_runs_interleaved_equal_two_runs_in_turn(pipeline: Pipeline) -> None:
    def run(seed: int, callback: Any = None) -> Tensor:
        made = pipeline(PROMPT, **SMALL, seed=seed, sampler="euler_ancestral", callback=callback)
        return made.latents

    first, second = run(1), run(2)
    inner: list[Tensor] = []
    outer = run(1, lambda info: inner.append(run(2)) if info.step == 1 else None)
    assert torch.equal(outer, first)
    assert torch.equal(inner[0], second)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "heun"])
def test_r41_progress_is_monotonic_over_all_videos_and_ends_at_the_end(
    pipeline: Pipeline, sampler: str
) -> None:
    seen: list[StepInfo] = []
    pipeline(
        [PROMPT, PROMPT, PROMPT],
        **SMALL,
        sampler=sampler,
        output="latents",
        callback=seen.append,
    )
    assert len({info.num_steps for info in seen}) == 1
    assert [info.step for info in seen] == list(range(seen[0].num_steps))
