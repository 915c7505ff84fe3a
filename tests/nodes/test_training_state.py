"""What a run's files and process say of it, and what the training nodes copy and show of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.comfy.stand_in import StandIn
from latte_test_support.training_nodes import STARTER, needs_starter, part, wait_until

from latte_core.video import write_image

NOW = 1_000_000_000.0
GONE = 2**22 + 1  # no process has such a number
CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, str, str]] = {
    "nothing": (None, None, "cut off", "cut off"),
    "killed with ComfyUI": (
        {"state": "running", "step": 4, "loss": 0.5},
        {},
        "cut off",
        "goes on from update 0",
    ),
    "failed": ({"state": "failed", "message": "Too few."}, {"code": 2}, "failed", "Too few."),
    "crashed": ({"state": "running", "step": 4}, {"code": -9}, "failed", "Memory is full"),
    "crashed while loading": (
        {"state": "finished", "step": 9, "time": NOW - 5},
        {"code": 1},
        "failed",
        "Memory is full",
    ),
    "stopped": ({"state": "stopped", "step": 4}, {"code": 0}, "stopped", "4 of 9 updates"),
    "finished": ({"state": "finished", "step": 9}, {"code": 0}, "finished", "9 of 9 updates"),
    "by hand": ({"state": "finished", "step": 9}, None, "finished", "9 of 9 updates"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_state_of_a_run_is_read_from_its_files(name: str, host: StandIn) -> None:
    status, launch, state, words = CASES[name]
    folder = Path(host.folder("output/latte_training/run"))
    (folder / "config.json").write_text('{"num_steps": 9}', encoding="utf-8")
    (folder / "train.log").write_text("Note: a\nError: Memory is full.\n", encoding="utf-8")
    if status is not None:
        written = {"pid": GONE, "time": NOW, **status}
        (folder / "status.json").write_text(json.dumps(written), encoding="utf-8")
    if launch is not None:
        made = {"pid": GONE, "time": NOW - 1, "code": None, "is_told": False, **launch}
        (folder / "launch.json").write_text(json.dumps(made), encoding="utf-8")
    training = part("nodes.host.training.run")
    view = training.look(folder)
    assert (view.state, view.is_alive) == (state, False)
    assert words in training.sentence(view)


def test_a_process_without_last_words_is_told_by_its_code(host: StandIn) -> None:
    folder = Path(host.folder("run"))
    last_words = part("nodes.host.training.process").last_words
    assert last_words(folder, -9) == "its process ended with code -9."
    (folder / "train.log").write_text("x" * 9000 + "\nSegmentation fault\n", encoding="utf-8")
    assert last_words(folder, -11).endswith("The last line of train.log: Segmentation fault")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, ""), (89, "about 89 s"), (120, "about 2 minutes"), (9000, "about 2.5 hours")],
)
def test_time_is_told_in_fitting_units(seconds: float | None, expected: str) -> None:
    assert expected in part("nodes.host.training.run").time_left(seconds)


def test_a_process_is_known_by_number_age_and_command() -> None:
    pytest.importorskip("psutil", reason="psutil is not installed; ComfyUI brings it along")
    is_training = part("nodes.host.training.process").is_training
    command = [sys.executable, "-c", "input()", "latte_core"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        now = time.time()
        wait_until(lambda: is_training(process.pid, now), "recognising the process")
        assert not is_training(process.pid, now - 60), "a number that is used again"
        assert not is_training(os.getpid(), now), "another program"
        process.kill()
        wait_until(lambda: not is_training(process.pid, now), "seeing a process that has ended")
    assert not is_training(None, now) and not is_training(-1, now) and not is_training(GONE, now)


@needs_starter
def test_weights_are_copied_once_and_again_when_they_changed(
    host: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = part("nodes.host.training.files").copy_weights
    first, second = (STARTER / name for name in ("vae", "transformer"))
    target = tmp_path / "shelf" / "latte" / "run.safetensors"
    name = "diffusion_pytorch_model.safetensors"
    copy(first / name, target)
    assert target.read_bytes() == (first / name).read_bytes()
    before = target.stat()
    copy(first / name, target)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    copy(second / name, target)
    assert target.read_bytes() == (second / name).read_bytes()
    target.write_bytes(b"damaged")
    copy(second / name, target)
    assert target.read_bytes() == (second / name).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["run.safetensors"]


@needs_starter
def test_weights_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    source = STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "latte").write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(part("latte_core.errors").CheckpointError, match="was not written"):
        part("nodes.host.training.files").copy_weights(source, tmp_path / "latte" / "x.safetensors")


def test_each_new_picture_is_previewed_once(host: StandIn) -> None:
    training, files = part("nodes.host.training.run"), part("nodes.host.training.files")
    folder = Path(host.folder("output/latte_training/run"))
    preview = files.NewestPicture()
    assert preview(training.look(folder)) is None
    write_image(folder / "loss.png", torch.rand(8, 12, 3))
    kind, picture, largest = preview(training.look(folder))
    assert (kind, picture.size, largest) == ("PNG", (12, 8), None)
    assert preview(training.look(folder)) is None
    (folder / "samples").mkdir()
    sheet = write_image(folder / "samples" / "step-00000002.png", torch.rand(4, 4, 3))
    later = time.time_ns() + 10**9
    os.utime(sheet, ns=(later, later))
    assert preview(training.look(folder))[1].size == (4, 4)
