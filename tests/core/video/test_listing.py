"""Folders as systems leave them: order of numbers, and what is no data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from latte_core.data.layouts import find_clips
from latte_core.video.listing import entries_of, is_left_behind
from latte_core.video.pictures import write_picture
from latte_core.video.stream import find_videos


def write_numbered(folder: Path, names: list[str]) -> Path:
    """Write one picture for each name, each as bright as its place in the list."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        write_picture(folder / name, torch.full((4, 4, 3), place, dtype=torch.uint8), None)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_{k}.png" for k in range(1, 21)],
        [f"{k}.png" for k in (0, 9, 10, 99, 100)],
        ["Frame2.png", "frame10.PNG", "FRAME11.png"],
        ["v2 f9.png", "v2 f10.png", "v10 f1.png"],
        ["clip-008.png", "clip-9.png", "clip-0010.png"],
        ["\uff12.png", "\uff11\uff10.png"],  # full-width digits
    ],
)
def test_frames_are_read_in_the_order_of_their_numbers_everywhere(
    tmp_path: Path, names: list[str]
) -> None:
    write_numbered(tmp_path / "clips" / "v", names)
    (video,) = find_videos(tmp_path / "clips")
    assert [int(frame[0, 0, 0]) for frame in video.frames()] == list(range(len(names)))
    assert [int(frame[0, 0, 0]) for frame in video.pick(range(2))] == [0, 1]
    (clip,) = find_clips(tmp_path / "clips").clips
    assert clip.pictures is not None
    assert [path.name for path in clip.pictures] == names


def test_two_names_of_one_number_have_one_order(tmp_path: Path) -> None:
    write_numbered(tmp_path / "v", ["b1.png", "b01.png", "b2.png"])
    assert [path.name for path in entries_of(tmp_path / "v")] == ["b01.png", "b1.png", "b2.png"]


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "#recycle", "@__thumb", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
    + ["__MACOSX", ".AppleDouble", ".Trash-1000", "FOUND.000", "LOST.DIR"],
)
def test_folders_that_systems_leave_behind_are_no_data(tmp_path: Path, name: str) -> None:
    write_numbered(tmp_path / "data" / "clip", ["1.png", "2.png"])
    write_numbered(tmp_path / "data" / name / "clip", ["thumb.png"])
    (tmp_path / "data" / "Thumbs.db").touch()
    assert [video.name for video in find_videos(tmp_path / "data")] == ["clip"]
    for layout in ("folder", "taichi", "skytimelapse"):
        assert [clip.name for clip in find_clips(tmp_path / "data", layout).clips] == ["clip"]


@pytest.mark.parametrize("name", ["@home.mp4", "#1.mp4", "found.mp4", "recycle", "desktop"])
def test_names_that_only_look_alike_are_data(name: str) -> None:
    assert not is_left_behind(Path(name))


def test_kinds_that_are_not_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_numbered(tmp_path / "data" / "clip", ["1.png", "2.png"])
    for name in ("3.heic", "4.HEIC", "5.exr"):
        (folder / name).touch()
    with caplog.at_level(logging.WARNING, "latte"):
        find_clips(tmp_path / "data")
        find_videos(tmp_path / "data")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("3 files" in one and "1 .exr, 2 .heic" in one for one in said)
