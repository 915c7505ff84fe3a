"""The training page's path, as a newcomer types it: drawn clips to a LoRA that moves things."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from latte_test_support.pack import ROOT

from latte_core.starter.measure import measure_clip
from latte_core.video import read_video

BLOCK = re.compile(r"<!-- training path: begin -->\n```bash\n(.+?)```", re.DOTALL)


def lines() -> list[str]:
    """Return the commands of the page, in order."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    found = BLOCK.search(page)
    assert found is not None
    joined = found[1].replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def test_the_path_goes_from_drawing_to_measuring() -> None:
    words = [shlex.split(line) for line in lines()]
    assert [one[3] for one in words if one[0] == "python"] == [
        *("draw-clips", "prepare", "train", "sample", "sample", "sample", "evaluate")
    ]


@pytest.mark.stress
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_path_works_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    printed: list[str] = []
    for line in lines():
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert measure_clip(read_video(tmp_path / "still.mp4").frames).direction == "still"
    assert measure_clip(read_video(tmp_path / "left.mp4").frames).direction == "left"
    assert (tmp_path / "left_run" / "loss.png").is_file()
    assert printed[-1].startswith("FVD")
