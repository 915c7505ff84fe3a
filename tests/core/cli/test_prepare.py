"""`draw-clips` and `prepare`: from nothing to a set that training reads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from latte_test_support.clip_files import write_frames

from latte_core.cli.main import main
from latte_core.data import LatentSet
from latte_core.starter.drawing import COLORS, SHAPES, draw_clips, make_clip_spec
from latte_core.video import read_video

ROOT = Path(__file__).resolve().parents[3]
QUICK = ["--model", "starter", "--size", "48x32", "--device", "cpu"]


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_drawn_clips_are_what_the_drawing_gives_with_captions_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--num", "3", "--seed", "5", "--direction", "left", "--color", "red"]
    assert run("draw-clips", tmp_path / "clips", *options) == 0
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == [f"0000{k}.{ending}" for k in range(3) for ending in ("gif", "txt")]
    for number in range(3):
        rng = random.Random(f"5-drawn-{number}")
        spec = make_clip_spec(rng, color="red", direction="left")
        expected = draw_clips([spec])[0].movedim(1, -1)
        back = read_video(tmp_path / "clips" / f"0000{number}.gif").frames
        assert (back - expected).abs().max() < 0.02  # 256 colours hold a plain clip
        captions = (tmp_path / "clips" / f"0000{number}.txt").read_text().splitlines()
        assert 2 <= len(captions) == len(set(captions)) <= 4
    assert "prepare" in capsys.readouterr().out


def test_drawn_clips_are_sorted_into_classes_that_take_turns(tmp_path: Path) -> None:
    options = ["--num", "5", "--shape", "circle", "--by-class", "--frames", "2"]
    assert run("draw-clips", tmp_path / "clips", *options, "--format", "mp4") == 0
    found = {path.relative_to(tmp_path / "clips").as_posix() for path in tmp_path.rglob("*.mp4")}
    assert found == {f"{color} circle/{k:05d}.mp4" for k, color in enumerate([*COLORS][:5])}
    assert not list(tmp_path.rglob("*.txt"))
    assert "circle" in SHAPES


def test_clips_say_what_they_are_told_to(tmp_path: Path) -> None:
    options = ["--num", "3", "--direction", "left", "--frames", "2", "--color", "red"]
    said = ["--caption", "a {color} {shape} standing still", "--caption", "moving {direction}"]
    assert run("draw-clips", tmp_path / "clips", *options, *said) == 0
    for path in (tmp_path / "clips").glob("*.txt"):
        first, second = path.read_text().splitlines()
        assert first in {f"a red {shape} standing still" for shape in SHAPES}
        assert second == "moving left"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--caption", "a {size} circle"], "cannot be filled in"),
        (["--caption", ""], "cannot be filled in"),
        (["--caption", "a", "--by-class"], "have no captions"),
        (["--num", "0"], "--num is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--frames", "0"], "--frames is 0"),
    ],
)
def test_clips_that_cannot_be_drawn_leave_no_folder(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("draw-clips", tmp_path / "clips", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()


def test_folder_with_something_in_it_is_not_drawn_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    assert run("draw-clips", tmp_path, "--num", "1") == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_clip_that_cannot_be_read_is_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_frames(tmp_path / "in" / f"clip{number}", 2, seed=number)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"<!doctype html>")
    write_frames(tmp_path / "in" / "words", 2)
    (tmp_path / "in" / "words.txt").write_bytes("gr\u00fcn".encode("cp1252"))
    options = [*QUICK, "--frames", "2", "--workers", "1"]
    assert run("prepare", tmp_path / "in", tmp_path / "set", *options) == 3
    told = capsys.readouterr()
    assert "skipped bad.mp4: bad.mp4 cannot be read as a video" in told.out
    assert "skipped words: words.txt is not UTF-8 text: line 1" in told.out
    assert "2 skipped" in told.err


def test_prepare_says_what_was_used_and_what_was_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_frames(tmp_path / "in" / f"clip{number}", 4, seed=number)
        (tmp_path / "in" / f"clip{number}.txt").write_text("a clip\nclip")
    write_frames(tmp_path / "in" / "one", 1)
    options = [*QUICK, "--frames", "2", "--dtype", "float32", "--workers", "1", "--batch", "3"]
    assert run("prepare", tmp_path / "in", tmp_path / "set", *options) == 0
    told = capsys.readouterr()
    assert "3, 4 to 4 frames, 12 in all" in told.out
    assert "4 x 4 x 6, float32" in told.out
    assert "skipped one: one has 1 frames, but 2 are needed." in told.out
    assert "clips: 100%" in told.err
    assert "captions: 100%" in told.err
    assert "1 skipped" in told.err
    assert "Note: 1 of 4 clips have no caption" in told.err
    assert len(LatentSet.open(tmp_path / "set", verify=True)) == 3

    assert run("prepare", "--show", tmp_path / "set") == 0
    assert capsys.readouterr().out == told.out
    path = tmp_path / "set" / "latents-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert run("prepare", "--show", tmp_path / "set") == 2
    assert "recorded SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["in", "set"], "--model"),
        (["in", "--model", "starter"], "folder to write"),
        (["in", "set", "--model", "starter", "--size", "big"], "--size is 'big'"),
        (["in", "set", "--model", "starter", "--size", "64x"], "--size is '64x'"),
        (["in", "set", "--model", "starter", "--size", "65"], "multiple of 16"),
        (["in", "set", "--model", "starter", "--layout", "ucf101"], "does not say its class"),
        (["lost", "set", "--model", "starter"], "no folder 'lost'"),
        (["in", "set", "--model", "lost"], "no model 'lost'"),
        (["--show", "set"], "is not a prepared set"),
    ],
)
def test_command_that_cannot_be_done_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    monkeypatch.chdir(tmp_path)
    assert run("prepare", *options) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.9])
def test_r50_killed_prepare_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, delay: float
) -> None:
    for number in range(70):
        write_frames(tmp_path / "in" / f"{number:02d}", 4, seed=number)
        (tmp_path / "in" / f"{number:02d}.txt").write_text(f"caption {number}")
    options = [*QUICK, "--frames", "2"]
    assert run("prepare", tmp_path / "in", tmp_path / "whole", *options) == 0
    command = [sys.executable, "-m", "latte_core", "prepare", str(tmp_path / "in")]
    process = subprocess.Popen(
        [*command, str(tmp_path / "set"), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    with process.stderr as progress:
        progress.read(1)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert run("prepare", tmp_path / "in", tmp_path / "set", *options) == 0
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "set" / path.name).read_bytes()
    mean, _ = LatentSet.open(tmp_path / "set").moments(69, [3])
    assert torch.isfinite(mean).all()
