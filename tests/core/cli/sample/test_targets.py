"""Files of `sample` that are there already: nothing is replaced without a word."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from latte_core.cli.main import main
from latte_core.shipped import STARTER_FOLDER

OLDER = b"an older file"
QUICK = ["--steps", "1", "--frames", "1", "--prompt", "a red circle", "--device", "cpu"]


class Terminal(io.StringIO):
    """A terminal at which a person types something."""

    def isatty(self) -> bool:
        return True


def sample(*words: object) -> int:
    return main(["sample", *map(str, words)])


@pytest.fixture
def older(tmp_path: Path) -> Path:
    path = tmp_path / "clip.png"
    path.write_bytes(OLDER)
    return path


def test_older_file_is_kept_and_the_way_on_is_told(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(*QUICK, "--output", older) == 2
    assert "clip.png is there already" in (told := capsys.readouterr().err)
    assert "--overwrite" in told
    assert older.read_bytes() == OLDER


def test_older_file_is_replaced_where_that_was_said(older: Path) -> None:
    assert sample(*QUICK, "--output", older, "--overwrite") == 0
    assert older.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("answer", "code"), [("Yes\n", 0), ("\n", 2), ("no\n", 2)])
def test_person_at_a_terminal_is_asked(
    older: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", screen)
    assert sample(*QUICK, "--output", older) == code
    assert "clip.png is there already. Overwrite? [y/N]" in screen.getvalue()
    assert (older.read_bytes() == OLDER) is (code == 2)


def test_numbered_files_and_grids_are_looked_for_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    for name in ("clip-001.mp4", "clip-003.mp4", "grid.gif"):
        (tmp_path / name).write_bytes(OLDER)
    many = ["--prompts", tmp_path / "prompts.txt", "--model", "not_there"]
    assert sample(*many, "--output", tmp_path / "clip.mp4") == 2
    assert "clip-001.mp4 and 1 more of 3 files are there" in capsys.readouterr().err
    assert sample(*many, "--grid", "--output", tmp_path / "grid.gif") == 2
    assert "grid.gif is there already" in capsys.readouterr().err


def test_files_of_a_class_model_are_looked_for_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(OLDER)
    one = ["--class", "0", "--steps", "1", "--frames", "1", "--device", "cpu"]
    assert sample("--model", "class-starter", *one, "--output", tmp_path / "a.png") == 2
    assert "a.png is there already" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == OLDER


def test_folder_has_no_use_for_overwriting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(*QUICK, "--output-dir", tmp_path, "--overwrite") == 2
    assert "--overwrite is for --output" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "meta", "cpux"])
def test_device_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    words = [*QUICK[:-1], device, "--output", tmp_path / "a.png"]
    assert sample(*words) == 2
    assert f"device is '{device}', but this torch" in capsys.readouterr().err


def test_advice_on_long_videos_can_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", "1", "--frames", "17", "--prompt", "x", "--device", "cpu"]
    assert sample(*words, "--output", tmp_path / "a.gif") == 0
    (note,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("Note")]
    assert "Ask for 16 or fewer" in note and "ComfyUI" in note


def test_advice_names_options_where_it_names_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = STARTER_FOLDER / "vae"
    assert sample("--model", vae, *QUICK, "--output", tmp_path / "a.png") == 2
    told = capsys.readouterr().err
    assert "Latte VAE Loader" in told
    assert "on the command line: Latte VAE Loader: --vae" in told
