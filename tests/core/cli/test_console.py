"""Consoles and pipes: closed, cut off, or unable to show a character; and `~` in options."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latte_core.cli.console import Outlet, outlets
from latte_core.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
WORD = "\u52a8\u753b"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of bash, in which LATTE stands for the program."""
    latte = f"{sys.executable} -m latte_core"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.replace('LATTE', latte)}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell is bash")


@pytest.mark.parametrize(
    "command", ["LATTE --help | true", "LATTE sample --help | head -1", "LATTE --version >&-"]
)
def test_output_that_nobody_reads_is_no_error(tmp_path: Path, command: str) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_is_finished_when_its_reader_leaves(tmp_path: Path) -> None:
    done = shell("LATTE draw-clips clips --num 2 2>&1 | true", tmp_path)
    assert done.returncode == 0
    assert len(list((tmp_path / "clips").glob("*.gif"))) == 2


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_characters_that_a_console_lacks_are_shown_as_numbers(
    tmp_path: Path, encoding: str
) -> None:
    command = f"LATTE draw-clips {WORD} --num 1"
    done = shell(command, tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0
    assert "1 clips are in \\u52a8\\u753b." in done.stdout
    assert "Traceback" not in done.stderr
    assert (tmp_path / WORD).is_dir()


class Closed(io.StringIO):
    """A stream whose other side is gone."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code, self.tries = code, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EINVAL])
def test_closed_stream_is_written_to_once(code: int) -> None:
    closed = Closed(code)
    outlet = Outlet(closed)
    assert outlet.write("one") == 3
    assert outlet.write("two") == 3
    outlet.flush()
    assert closed.tries == 1
    assert not outlet.isatty()


def test_full_disk_behind_the_output_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", Closed(errno.ENOSPC))
    assert main(["inspect", str(ROOT / "latte_core" / "assets" / "starter")]) == 2
    assert "Error: The system refused the use: No space left" in capsys.readouterr().err


def test_streams_are_what_they_were_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), outlets():
        assert sys.stdout is not before[0]
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video-to-frames", "~/none", "~/out"], "no folder 'none'"),
        (["inspect", "~/none.safetensors"], "none.safetensors"),
        (["sample", "--prompts=~/none.txt", "--output=~/a.gif"], "none.txt cannot be read"),
    ],
)
def test_home_is_known_in_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_prompt_that_begins_with_a_tilde_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from latte_core.cli import main as frame

    seen: list[Any] = []
    monkeypatch.setattr(frame, "_run", lambda parsed: seen.append(parsed) or 0)
    frame.main(["sample", "--prompt", "~/x", "--model", "~", "--output", "a.gif"])
    assert (seen[0].prompt, seen[0].model) == ("~/x", str(Path.home()))


def test_file_for_scores_is_looked_at_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "starter", "--json", "nowhere/a.json"]) == 2
    assert "--json is 'nowhere/a.json'" in capsys.readouterr().err


def test_refusal_of_the_system_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret.json"))

    monkeypatch.setattr("pathlib.Path.is_dir", fails)
    assert main(["video-to-frames", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "The system refused the use of secret.json: Permission denied" in capsys.readouterr().err
