"""`video-to-frames`: folders of square pictures, as the authors prepare data sets."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from latte_test_support.feature_weights import random_clips
from PIL import Image

from latte_core.cli.main import main
from latte_core.video import frames_from_bytes, read_video, write_video
from latte_core.video.frame_folder import write_frame_folder
from latte_core.video.pictures import read_picture, square_picture
from latte_core.video.stream import find_videos


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder of classes: three videos wider than high."""
    for index, name in enumerate(("a/one.mp4", "a/two.gif", "b/one.mp4")):
        frames = frames_from_bytes(random_clips(1, 3, 16, 24, seed=index)[0])
        write_video(tmp_path / "videos" / name, frames)
    return tmp_path / "videos"


def convert(*words: object) -> int:
    return main(["video-to-frames", *map(str, words)])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_png_frames_are_the_middle_squares_resized(videos: Path, tmp_path: Path) -> None:
    place = tmp_path / "frames"
    assert convert(videos, place, "--size", 8, "--png") == 0
    expected = [f"{name}/00000{k}.png" for name in ("a/one", "a/two", "b/one") for k in range(3)]
    assert names(place) == expected
    frames = (read_video(videos / "a" / "one.mp4").frames * 255).round().to(torch.uint8)
    found = read_picture(place / "a" / "one" / "000001.png")
    assert torch.equal(found, square_picture(frames[1], 8))
    assert [video.name for video in find_videos(place)] == ["a/one", "a/two", "b/one"]


@pytest.mark.parametrize(("options", "quality"), [([], 75), (["--quality", "90"], 90)])
def test_jpeg_has_the_quality_that_is_told(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    quality: int,
) -> None:
    place = tmp_path / "frames"
    assert convert(videos / "b" / "one.mp4", place, "--size", 16, *options) == 0
    assert f"one: 3 frames, 16 x 16 pixels, JPEG quality {quality}." in capsys.readouterr().out
    assert names(place) == [f"one/00000{k}.jpg" for k in range(3)]
    frames = (read_video(videos / "b" / "one.mp4").frames * 255).round().to(torch.uint8)
    expected = io.BytesIO()
    Image.fromarray(square_picture(frames[2], 16).numpy()).save(
        expected, format="JPEG", quality=quality
    )
    assert (place / "one" / "000002.jpg").read_bytes() == expected.getvalue()


def test_whole_folders_are_kept_and_missing_ones_made(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "frames"
    (place / "a" / "one").mkdir(parents=True)
    (place / "b" / ".one.0123abcd.part").mkdir(parents=True)
    assert convert(videos, place, "--size", 8) == 0
    assert "1 of 3 videos are in" in capsys.readouterr().out
    assert list((place / "a" / "one").iterdir()) == []
    assert [path.name for path in (place / "b").iterdir()] == ["one"]


def test_frame_folders_can_be_made_smaller(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "large" / "x", random_clips(1, 2, 20, 20)[0])
    assert convert(tmp_path / "large", tmp_path / "small", "--size", 10, "--png") == 0
    assert read_picture(tmp_path / "small" / "x" / "000001.png").shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere", "{out}"], "no folder 'nowhere'"),
        (["{in}", "{out}", "--size", "4"], "--size"),
        (["{in}", "{out}", "--quality", "96"], "--quality"),
        (["{notes}", "{out}"], "notes.txt cannot be read as a video"),
        (["{twins}", "{out}"], "a.gif and a.mp4 would be written to one folder"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    notes, twins = tmp_path / "notes.txt", tmp_path / "twins"
    notes.write_text("not a video")
    twins.mkdir()
    (twins / "a.mp4").touch()
    (twins / "a.gif").touch()
    places = {"in": videos, "out": tmp_path / "frames", "notes": notes, "twins": twins}
    assert convert(*(word.format(**places) for word in options)) == 2
    assert message in capsys.readouterr().err
    assert list((tmp_path / "frames").rglob("*")) == []


def test_quality_and_png_do_not_go_together(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        convert(videos, tmp_path / "frames", "--png", "--quality", "90")
    assert ended.value.code == 2


def test_videos_that_cannot_be_read_are_left_out_counted_and_in_the_exit_code(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "a" / "cut.mp4").write_bytes((videos / "a" / "one.mp4").read_bytes()[:900])
    (videos / "b" / "none.webm").touch()
    assert convert(videos, tmp_path / "frames", "--size", 8) == 3
    told = capsys.readouterr()
    assert "2 of 5 videos cannot be read and are left out." in told.out
    assert "Left out: cut.mp4" in told.err and "Left out: none.webm" in told.err
    assert [video.name for video in find_videos(tmp_path / "frames")] == ["a/one", "a/two", "b/one"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp4").touch()
    (tmp_path / "bad" / "y.mp4").touch()
    assert convert(tmp_path / "bad", tmp_path / "none") == 2
    assert "None of the 2 videos can be read. The first: x.mp4" in capsys.readouterr().err
