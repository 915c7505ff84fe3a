"""`benchmarks/end_to_end.py`: its turns, figures and table, on ways of a known time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the benchmark with its neighbours, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("end_to_end", "ways.end_to_end", "caching"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("end_to_end")


class Clock:
    """Stands for the watch: a way takes the seconds that are given for its name, or one."""

    def __init__(self, spent: Any, seconds: dict[str, float]) -> None:
        self._spent, self._seconds = spent, seconds

    def time(self, way: Any, task: Any) -> tuple[torch.Tensor, Any]:
        total = self._seconds.get(way.name, 1.0)
        return way.make(task), self._spent(total=total, text=total / 10, decoding=total / 5)


def constant(value: float) -> Any:
    return lambda task: torch.full((2, 3, 3, 3), value)


def broken(task: Any) -> torch.Tensor:
    raise RuntimeError("sizes differ\nat length")


@pytest.fixture
def ways(script: Any) -> list[Any]:
    return [
        script.Way(script.THEIRS, "plain", constant(0.5)),
        script.Way(script.THEIRS, "idle", constant(0.5)),
        script.Way(script.THEIRS, "broken", broken),
        script.Way(script.OURS, "plain", constant(0.5)),
        script.Way(script.OURS, "cache", constant(0.6)),
    ]


def tasks(script: Any, rounds: int) -> list[Any]:
    return script.tasks_for(["a", "b"], rounds, (1, 4, 2, 3, 5), steps=3, scale=2.5, seed=7)


def test_rounds_take_prompts_in_turn_and_noise_of_their_own(script: Any) -> None:
    first, second, third = tasks(script, 3)
    assert [first.prompt, second.prompt, third.prompt] == ["a", "b", "a"]
    assert first.noise.shape == (1, 4, 2, 3, 5)
    assert not torch.equal(first.noise, third.noise)
    assert torch.equal(first.noise, tasks(script, 1)[0].noise)


def test_caches_that_fail_or_do_nothing_are_told_and_not_timed(
    script: Any, ways: list[Any]
) -> None:
    clock = Clock(importlib.import_module("ways.end_to_end").Spent, {})
    kept, others = script.warm_up(clock, ways, tasks(script, 1)[0])
    assert [script.full_name(way) for way in kept] == [
        "diffusers, plain",
        "ours, plain",
        "ours, cache",
    ]
    assert others == {
        "diffusers, idle": "no step skipped (output bit-equal)",
        "diffusers, broken": "crashes: RuntimeError: sizes differ",
    }


def test_way_of_ours_that_fails_ends_the_benchmark(script: Any, ways: list[Any]) -> None:
    clock = Clock(importlib.import_module("ways.end_to_end").Spent, {})
    with pytest.raises(RuntimeError, match="sizes differ"):
        script.warm_up(
            clock, [ways[0], script.Way(script.OURS, "broken", broken)], tasks(script, 1)[0]
        )


def test_figures_are_ratios_and_likeness_to_plain_diffusers(
    script: Any, ways: list[Any], tmp_path: Path
) -> None:
    timed = [ways[0], ways[4]]
    spent = importlib.import_module("ways.end_to_end").Spent
    script.measure(Clock(spent, {"plain": 3.0, "cache": 1.5}), timed, tasks(script, 3), 0)
    found = {script.full_name(way): script.figures_of(way, ways[0]) for way in timed}
    cached = found["ours, cache"]
    assert (cached["times_faster"], cached["seconds_median"]) == (2.0, 1.5)
    assert cached["psnr"] == pytest.approx(20, abs=0.01)  # an error of 0.1 everywhere
    assert found["diffusers, plain"]["psnr"] == 100
    assert cached["seconds_denoising"] == pytest.approx(1.5 * 0.7)
    assert "| ours, cache | 1.50 | 1.50 | 2.00x | 20.0 dB | 10%, 70%, 20% |" in script.table(
        found, {}
    )
    script.draw(tmp_path / "plot.png", found, "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
