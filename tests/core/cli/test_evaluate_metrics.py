"""`evaluate --metric` on folders and models, and the page that tells of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from latte_test_support.feature_weights import random_clips, random_weights, write_weights
from latte_test_support.tiny.classes import FRAMES, write_class_folder

from latte_core.cli.evaluate_metrics import MadeClips, open_fake
from latte_core.cli.main import main, make_parser
from latte_core.metrics import PRESETS, find_protocol, load_features
from latte_core.video import frames_from_bytes, write_video
from latte_core.video.frame_folder import write_frame_folder
from latte_core.video.stream import find_videos

ROOT = Path(__file__).resolve().parents[3]
TOY = ["--metric", "fvd", "--features", "random", "--num", "65", "--frames", "3",
       "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 66 videos: frame folders, and one file."""
    root = tmp_path_factory.mktemp("clips")
    clips = random_clips(66, 9, 8, 8)
    for index, clip in enumerate(clips[1:]):
        write_frame_folder(root / f"{index:03d}", clip)
    write_video(root / "last.mp4", frames_from_bytes(clips[0]))
    return root


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


def test_folder_is_measured_and_told_with_its_protocol(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fvd.json"
    assert evaluate(*TOY, "--real", folder, "--fake", folder, "--json", file) == 0
    shown = capsys.readouterr()
    number, line = shown.out.splitlines()
    assert re.fullmatch(r"FVD \S+", number)
    assert line.startswith("protocol fvd2048_16f (changed: num 65, num_frames 3); real ")
    assert "65 samples of 66 videos" in line and "NOT comparable" in line
    assert "100%" in shown.err
    values = json.loads(file.read_text())
    assert values["value"] == pytest.approx(float(number.split()[1]), rel=1e-5)
    assert values["line"] == line
    assert values["protocol"]["num"] == values["real"]["samples"] == 65


def test_damaged_video_is_left_out_and_the_exit_code_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real"
    shutil.copytree(folder, real)
    (real / "bad.mp4").write_bytes(b"no video")
    file = tmp_path / "fvd.json"
    options = ["--num", "66", "--interval", "1", "--json", file]
    assert evaluate(*TOY, *options, "--real", real, "--fake", folder) == 3
    shown = capsys.readouterr()
    assert shown.out.startswith("FVD ") and "1 not readable and left out" in shown.out
    assert "Note: Left out of real: bad.mp4" in shown.err
    assert json.loads(file.read_text())["real"]["damaged"] == 1


def clips_of(*words: object) -> MadeClips:
    """Return the made side that these options ask for."""
    arguments = make_parser().parse_args(["evaluate", *map(str, words)])
    protocol = find_protocol(arguments.metric).changed(
        num=arguments.num, num_frames=arguments.frames, seed=arguments.seed
    )
    made = open_fake(protocol, arguments)
    assert isinstance(made, MadeClips)
    return made


def test_model_gives_the_very_videos_that_it_writes(model: Path, tmp_path: Path) -> None:
    run = ["--class", "random", "--seed", "3", "--steps", "1", "--device", "cpu"]
    options = ["--model", str(model), *run, "--num", "3", "--format", "frames"]
    assert main(["sample", *options, "--output-dir", str(tmp_path)]) == 0
    made = clips_of("--metric", "fvd", "--num", 3, "--frames", FRAMES, "--model", model, *run)
    written = [torch.stack(list(video.frames())) for video in find_videos(tmp_path)]
    assert torch.equal(torch.stack(list(made)), torch.stack(written))
    report = made.report()
    assert (report.samples, report.videos) == (3, 3)
    assert report.details is not None
    assert (report.details["steps"], report.details["first seed"]) == ("1", 3)


def test_model_makes_clips_of_the_protocols_length(model: Path) -> None:
    run = ["--class", "0", "--steps", "1", "--device", "cpu"]
    made = clips_of("--metric", "fvd", "--num", 2, "--frames", 2, "--model", model, *run)
    assert next(iter(made)).shape == (2, 64, 64, 3)


def test_pictures_of_a_model_are_counted_in_frames(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, clip in enumerate(random_clips(5, 20, 64, 64)):
        write_frame_folder(tmp_path / f"{index}", clip)
    options = ["--metric", "fid", "--features", "random", "--num", "65", "--device", "cpu"]
    made = ["--model", model, "--class", "all", "--steps", "1"]
    assert evaluate(*options, "--real", tmp_path, *made) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert f"65 samples of {-(-65 // FRAMES)} videos, frames drawn" in line
    assert "model (method " in line and "steps 1" in line and "first seed 0" in line


def test_weights_of_a_user_are_named_with_their_digest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = random_weights("i3d")
    del weights["logits.conv3d.bias"]
    file = write_weights(tmp_path / "i3d.safetensors", weights)
    options = ["--metric", "fvd", "--real", folder, "--fake", folder, "--features", file]
    assert evaluate(*options) == 2
    assert "logits.conv3d.bias" in error_of(capsys)


BAD: list[tuple[list[str], str]] = [
    ([], "There is nothing to measure"),
    (["--real", "x"], "--real is for comparing"),
    (["starter", "--subset-size", "9"], "--subset-size is for comparing"),
    (["starter", "--model", "x"], "--model is for comparing"),
    (["--metric", "fdv"], 'Did you mean "fvd"'),
    (["--metric", "fvd", "--real", "x", "--features", "random"], "--fake DIR, or --model MODEL"),
    (["--metric", "fvd", "--fake", "x", "--features", "random"], "--real"),
    (["--metric", "is", "--real", "x", "--fake", "x", "--features", "x"], "has no place"),
    (["--metric", "fvd", "--real", "x", "--fake", "x"], "--features random"),
    ([*TOY, "--real", "x", "--fake", "x"], "There is no folder 'x'"),
    ([*TOY, "--num", "64", "--real", "x", "--fake", "x"], "at least 65"),
    ([*TOY, "--real", "{folder}", "--fake", "{folder}", "--num", "70"], "--num 66"),
    ([*TOY, "--real", "x", "--fake", "x", "--batch", "0"], "--batch"),
    (["starter", *TOY, "--real", "x"], "'starter' does not go with --metric"),
    ([*TOY, "--real", "x", "--fake", "x", "--card"], "--card does not go"),
    ([*TOY, "--real", "{folder}", "--model", "{model}", "--class", "0", "--steps", "1"], "8 x 8"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_every_mistake_is_one_sentence(
    folder: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(*(word.format(folder=folder, model=model) for word in words)) == 2
    assert message in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_page_tells_every_protocol_and_its_commands_are_understood() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in PRESETS if f"`{name}`" not in text] == []
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:torchrun \S+ \S+|python) -m latte_core (.+)$", joined, re.MULTILINE)
    commands = {make_parser().parse_args(shlex.split(line)).run.__module__ for line in lines}
    assert {name.removeprefix("latte_core.cli.").partition(".")[0] for name in commands} == {
        "evaluate", "sample", "video_to_frames",
    }  # fmt: skip


def test_conversion_on_the_page_gives_a_file_that_loads(tmp_path: Path) -> None:
    """The page's own lines, run on a file with the published names and shapes."""
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    block = next(one for one in re.findall(r"```python\n(.+?)```", text, re.DOTALL) if "i3d" in one)
    torch.save(random_weights("i3d"), tmp_path / "i3d_pretrained_400.pt")
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert load_features(tmp_path / "i3d.safetensors").kind.name == "i3d"
