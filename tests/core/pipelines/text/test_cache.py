"""Runs with a cache: what is computed, what the report says, and the model's own schedules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL

from latte_core.acceleration import CacheSettings, CalibratedSchedule, ScheduleFile
from latte_core.errors import CorruptCheckpointError
from latte_core.pipelines.text.pipeline import Pipeline

STEPS = 8
OPTIONS: dict[str, Any] = {**SMALL, "num_steps": STEPS, "output": "latents"}
OWN = ScheduleFile(
    model="tiny",
    digest="",
    sampler="ddim",
    num_steps=STEPS,
    guidance_scale=7.5,
    forecast=2,
    prompts=1,
    schedules=(
        CalibratedSchedule(full_steps=(0, 1, 2, 5, 7)),
        CalibratedSchedule(full_steps=(0, 4, 7)),
    ),
)


@pytest.fixture
def with_schedules(folder: Path, tmp_path: Path) -> Path:
    """Return the model with a file of schedules beside its transformer."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "cache_schedules").mkdir()
    OWN.write(copy / "cache_schedules" / f"ddim-{STEPS}.json")
    return copy


@pytest.mark.parametrize(("speed_up", "number"), [(1.6, 0), (2.7, 1)])
def test_schedules_that_came_with_the_model_are_followed(
    pipeline: Pipeline, with_schedules: Path, speed_up: float, number: int
) -> None:
    settings = CacheSettings(speed_up=speed_up)
    own = Pipeline.from_pretrained(with_schedules, device="cpu")(PROMPT, **OPTIONS, cache=settings)
    given = pipeline(
        PROMPT, **OPTIONS, cache=CacheSettings(schedules=OWN, speed_up=speed_up)
    )  # the same weights, and the file given by hand
    assert own.cache[0].full_steps == len(OWN.schedules[number].full_steps)
    assert torch.equal(own.latents, given.latents)
    assert not torch.equal(own.latents, pipeline(PROMPT, **OPTIONS, cache=settings).latents)


@pytest.mark.parametrize("change", [{"num_steps": 9}, {"sampler": "euler"}])
def test_other_runs_follow_the_rule(
    pipeline: Pipeline, with_schedules: Path, change: dict[str, Any]
) -> None:
    options: dict[str, Any] = {**OPTIONS, **change, "cache": CacheSettings()}
    own = Pipeline.from_pretrained(with_schedules, device="cpu")(PROMPT, **options)
    assert torch.equal(own.latents, pipeline(PROMPT, **options).latents)


def test_a_damaged_file_of_schedules_is_named(with_schedules: Path) -> None:
    (with_schedules / "cache_schedules" / f"ddim-{STEPS}.json").write_text("{}")
    pipeline = Pipeline.from_pretrained(with_schedules, device="cpu")
    with pytest.raises(CorruptCheckpointError, match=f"ddim-{STEPS}.json says format"):
        pipeline(PROMPT, **OPTIONS, cache=CacheSettings())
    assert pipeline(PROMPT, **OPTIONS).cache == ()


def test_every_video_has_a_report_of_its_own(pipeline: Pipeline) -> None:
    made = pipeline([PROMPT, "a dog"], **OPTIONS, cache=CacheSettings(speed_up=2))
    assert [report.full_steps for report in made.cache] == [4, 4]
    assert [report.skipped_steps for report in made.cache] == [4, 4]
    alone = pipeline(PROMPT, **OPTIONS, cache=CacheSettings(speed_up=2))
    assert torch.equal(made.latents[:1], alone.latents)
