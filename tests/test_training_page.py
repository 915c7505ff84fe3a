"""The training page's path, as a newcomer types it: drawn clips to a LoRA that moves things."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from latte_test_support.pack import ROOT

from latte_core.training.measure import measure_clip
from latte_core.video import read_video

BLOCK = re.compile(r"<!-- training path: begin -->\n```bash\n(.+?)```", re.DOTALL)


def commands() -> list[list[str]]:
    """Return the commands of the page, in order."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    found = BLOCK.search(page)
    assert found is not None
    joined = found[1].replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [shlex.split(line) for line in lines]


def test_the_path_goes_from_drawing_to_measuring() -> None:
    assert [words[3] for words in commands()] == [
        *("draw-clips", "prepare", "train", "sample", "sample", "evaluate")
    ]


@pytest.mark.stress
def test_the_path_works_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed: list[str] = []
    for words in commands():
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert measure_clip(read_video(tmp_path / "still.mp4").frames).direction == "still"
    assert measure_clip(read_video(tmp_path / "left.mp4").frames).direction == "left"
    assert (tmp_path / "left_run" / "loss.png").is_file()
    assert "kid" in printed[-1].lower()
