"""`calibrate`: gaps are measured as runs with these gaps, and `sample --cache` reads the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from torch import Tensor

from latte_core.acceleration import CacheSettings, CalibratedSchedule, ScheduleFile, body_of
from latte_core.acceleration.calibrate import CalibrationPlan, measure_edges
from latte_core.cli.main import main
from latte_core.pipelines.calibration import subjects as calibration_subjects
from latte_core.pipelines.calibration.calibration import CalibrationRun, Subject, psnr
from latte_core.pipelines.text.pipeline import Pipeline

STEPS = 6
SIZE = {name: SMALL[name] for name in ("num_frames", "height", "width")}
QUICK = ["--frames", "2", "--height", "32", "--width", "48", "--steps", str(STEPS)]
QUICK += ["--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("latte"))


def subject_of(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return what a calibration would be made of."""
    made: list[Subject] = []

    def keep(subject: Subject, run: CalibrationRun, **_: Any) -> None:
        made.append(subject)

    monkeypatch.setattr(calibration_subjects, "calibrate", keep)
    run = CalibrationRun(steps=str(STEPS), seed=3, **SIZE)
    calibration_subjects.calibrate_text(pipeline, [PROMPT], run)
    return made[0]


@pytest.mark.parametrize("forecast", [0, 1])
def test_a_gap_costs_what_a_run_with_this_gap_differs_by(
    folder: Path, monkeypatch: pytest.MonkeyPatch, forecast: int
) -> None:
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    subject = subject_of(pipeline, monkeypatch)
    plan = CalibrationPlan(max_skip=3, look_ahead=None, forecast=forecast)
    edges = measure_edges(subject.examples[0](), body_of(subject.model), plan)

    def last_denoised(cache: CacheSettings | None) -> Tensor:
        seen: list[Tensor] = []
        options: dict[str, Any] = {**SMALL, "num_steps": STEPS, "seed": 3, "output": "latents"}
        pipeline(PROMPT, **options, cache=cache, callback=lambda info: seen.append(info.denoised))
        return seen[-1]

    plain = last_denoised(None)
    for start, stop in ((1, 3), (2, 5), (0, 4), (3, 5)):
        full = tuple(step for step in range(STEPS) if not start < step < stop)
        file = ScheduleFile(
            model="",
            digest="",
            sampler="ddim",
            num_steps=STEPS,
            guidance_scale=7.5,
            forecast=forecast,
            prompts=1,
            schedules=(CalibratedSchedule(full_steps=full),),
        )
        moved = last_denoised(CacheSettings(schedules=file))
        expected = float((moved - plain).abs().mean())
        assert expected > 0
        assert edges[start, stop] == pytest.approx(expected, rel=1e-3)
    assert {edges[step, step + 1] for step in range(STEPS - 1)} == {0.0}
    assert max(stop - start for start, stop in edges) == 4


def test_the_file_is_written_and_read_by_sample(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "steps.json", tmp_path / "clip.mp4"
    words = ["calibrate", str(folder), *QUICK, "--prompt", PROMPT, "--speed-ups", "1.5,2"]
    assert main([*words, "--output", str(path)]) == 0
    made = ScheduleFile.read(path)
    assert (made.sampler, made.num_steps, made.prompts, made.model) == ("ddim", 6, 1, folder.name)
    assert [len(one.full_steps) for one in made.schedules] == [4, 3]
    assert all(one.psnr is not None for one in made.schedules)
    assert "3 steps in full, 2.00 times fewer" in capsys.readouterr().out
    sample = ["sample", "--model", str(folder), *QUICK, "--prompt", PROMPT]
    assert main([*sample, "--cache", f"{path}:2", "--output", str(out)]) == 0
    assert "3 of 6 steps in full, 3 skipped" in capsys.readouterr().out


def test_class_models_are_calibrated_on_classes(tmp_path: Path) -> None:
    model = write_class_folder(tmp_path / "model")
    path = tmp_path / "steps.json"
    words = ["calibrate", str(model), "--steps", "6", "--class", "1", "--speed-ups", "2"]
    assert main([*words, "--device", "cpu", "--output", str(path)]) == 0
    made = ScheduleFile.read(path)
    assert made.num_steps == 6
    assert [len(one.full_steps) for one in made.schedules] == [3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "steps.txt"], "must be a .json file"),
        (["--output", "steps.json", "--steps", "ddim5"], "takes a whole number"),
        (["--output", "steps.json", "--speed-ups", "0.5"], "must be numbers above 1"),
        (["--output", "steps.json", "--class", "1"], "--class was given"),
        (["--output", "steps.json", "--max-skip", "0"], "max_skip"),
    ],
)
def test_what_cannot_be_calibrated_is_said(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", str(folder), "--prompt", PROMPT, *words]) != 0
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_psnr_is_that_of_the_formula() -> None:
    frames = torch.full((2, 4, 4, 3), 0.5)
    assert psnr(frames + 0.1, frames) == pytest.approx(20.0, abs=1e-4)
    assert psnr(frames, frames) == 100.0
