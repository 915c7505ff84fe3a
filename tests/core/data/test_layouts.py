"""Clips found in folders: one convention, four published sets, and what cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from latte_core.data.folder_contents import contents_of, is_animated_webp
from latte_core.data.layouts import LAYOUTS, FoundClips, find_clips
from latte_core.errors import InvalidInputError

WEBP_HEAD = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0"


def touch(root: Path, *names: str) -> Path:
    """Make empty files; finding clips reads names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names_of(found: FoundClips) -> list[str]:
    return [clip.name for clip in found.clips]


def test_videos_and_folders_of_frames_are_clips(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a.webm", "c.gif", "frames/1.png", "frames/2.png", "note.md")
    touch(tmp_path, ".hidden.mp4", "__MACOSX/x.mp4", ".cache/y.mp4")
    found = find_clips(tmp_path)
    assert names_of(found) == ["a.webm", "b.MP4", "c.gif", "frames"]
    assert found.class_names == ()
    assert [clip.class_name for clip in found.clips] == [None] * 4
    assert found.clips[0].path == tmp_path / "a.webm"
    assert found.clips[0].pictures is None
    assert found.clips[3].pictures == (tmp_path / "frames/1.png", tmp_path / "frames/2.png")


def test_frames_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"clip/frame_{number}.jpg" for number in (10, 9, 2, 1, 100)))
    (clip,) = find_clips(tmp_path).clips
    assert clip.pictures is not None
    assert [path.stem for path in clip.pictures] == [f"frame_{k}" for k in (1, 2, 9, 10, 100)]


def test_sub_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    touch(tmp_path, "walk/1.mp4", "Run/2.mp4", "Run/clip/1.png", "jump/poster.jpg", "jump/3.mp4")
    found = find_clips(tmp_path)
    assert found.class_names == ("Run", "jump", "walk")
    assert {clip.name: clip.class_name for clip in found.clips} == {
        "Run/2.mp4": "Run",
        "Run/clip": "Run",
        "jump/3.mp4": "jump",
        "walk/1.mp4": "walk",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no clip.*videos, or folders of frames, are expected"),
        (["readme.txt"], "holds no clip"),
        (["1.png", "2.png"], "2 pictures and no video.*folder of its own"),
        (["a.mp4", "run/b.mp4"], r"a\.mp4 is a clip, but run is a folder of clips"),
        (["clip/1.png", "run/b.mp4"], "clip is a clip, but run is a folder of clips"),
        (["a.mp4", "empty/readme.txt"], "empty holds no video and no picture"),
        (["clip/1.png", "clip/more/1.png"], "clip can be read in two ways"),
        (["run/far/deep/b.mp4"], "run/far lies two folders deep.*0 videos, 0 pictures and 1 fol"),
        (["run/far/b.mp4"], "run/far lies two folders deep.*1 videos"),
    ],
)
def test_folder_that_is_empty_or_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_clips(touch(tmp_path, *names))


def test_missing_folder_and_unknown_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no folder 'nothing'"):
        find_clips(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="'kinetics'.*folder, faceforensics, ucf101"):
        find_clips(tmp_path, "kinetics")


def test_faceforensics_is_videos_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "c.mp4", "x/y/a.avi", "x/b.mp4", "x/cover.jpg")
    found = find_clips(tmp_path, "faceforensics")
    assert names_of(found) == ["c.mp4", "x/b.mp4", "x/y/a.avi"]
    assert found.class_names == ()


def test_ucf101_classes_are_folders(tmp_path: Path) -> None:
    # the published folder HandstandPushups holds files that spell it differently
    touch(tmp_path, "HandstandPushups/v_HandStandPushups_g01_c01.avi")
    touch(tmp_path, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi")
    found = find_clips(tmp_path, "ucf101")
    assert found.class_names == ("ApplyEyeMakeup", "HandstandPushups")
    assert [clip.class_name for clip in found.clips] == ["ApplyEyeMakeup", "HandstandPushups"]


def test_ucf101_in_one_folder_takes_classes_from_names(tmp_path: Path) -> None:
    touch(tmp_path, "v_YoYo_g02_c01.avi", "v_Archery_g01_c01.avi", "v_YoYo_g01_c01.avi")
    found = find_clips(tmp_path, "ucf101")
    assert [clip.class_name for clip in found.clips] == ["Archery", "YoYo", "YoYo"]
    with pytest.raises(InvalidInputError, match=r"holiday\.avi does not say its class"):
        find_clips(touch(tmp_path, "holiday.avi"), "ucf101")


@pytest.mark.parametrize("layout", ["skytimelapse", "taichi"])
def test_frame_folders_are_found_at_any_depth(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, "v1/c2/v_2.jpg", "v1/c2/v_10.jpg", "v1/c1/1.png", "v2/1.jpg", "v2/notes.txt")
    found = find_clips(tmp_path, layout)
    assert names_of(found) == ["v1/c1", "v1/c2", "v2"]
    assert found.clips[1].pictures == (tmp_path / "v1/c2/v_2.jpg", tmp_path / "v1/c2/v_10.jpg")
    assert [clip.class_name for clip in found.clips] == [None] * 3


@pytest.mark.parametrize(
    ("layout", "transform", "style", "needed"),
    [
        ("folder", "smooth", "linspace", 16),
        ("faceforensics", "resize_first", "linspace", 16),
        ("ucf101", "resize_first", "linspace", 16),
        ("skytimelapse", "crop_first", "stride", 49),
        ("taichi", "none", "stride", 46),
    ],
)
def test_published_sets_are_shown_as_their_authors_show_them(
    layout: str, transform: str, style: str, needed: int
) -> None:
    chosen = LAYOUTS[layout]
    assert (chosen.transform, chosen.style) == (transform, style)
    assert chosen.num_needed(16, 3) == needed


def test_folder_without_end_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InvalidInputError, match="more than 8 folders deep"):
        find_clips(tmp_path, "faceforensics")


@pytest.mark.parametrize(
    ("head", "is_animated"),
    [
        (WEBP_HEAD + b"\x02\0\0\0", True),
        (WEBP_HEAD + b"\x10\0\0\0", False),
        (b"RIFF\x1a\0\0\0WEBPVP8 \x0a\0\0\0\x02\0", False),
        (WEBP_HEAD, False),
        (b"", False),
    ],
)
def test_webp_is_a_video_only_if_it_moves(tmp_path: Path, head: bytes, is_animated: bool) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(head)
    assert is_animated_webp(path) is is_animated
    contents = contents_of(tmp_path)
    assert contents.videos == ((path,) if is_animated else ())
    assert contents.pictures == (() if is_animated else (path,))
