"""Captions in texts beside clips, and in tables."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from latte_core.data.decoding import Reading, read_clip
from latte_core.data.layouts import find_clips
from latte_core.data.transforms import Transform
from latte_core.errors import InvalidInputError, UnreadableMediaError

READING = Reading(transform=Transform(kind="none", height=32, width=48), num_needed=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "clip/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def captions_of(folder: Path) -> dict[str, tuple[str, ...]]:
    return {clip.name: clip.captions for clip in find_clips(folder).clips}


def test_every_line_of_a_text_is_a_caption(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfA red Circle \r\n\r\n  a circle\nA red Circle\n")
    (folder / "clip.txt").write_text("\u4e00\u53ea\u732b", encoding="utf-8")
    (folder / "b.txt").write_text("\n \n")
    assert captions_of(folder) == {
        "a.mp4": ("A red Circle", "a circle"),
        "b.mp4": (),
        "clip": ("\u4e00\u53ea\u732b",),
    }


def test_class_folders_have_texts_beside_their_clips(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "run/a.txt", "walk/c/1.png", "walk/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    assert captions_of(tmp_path) == {
        "run/a.mp4": ("this is run/a.txt",),
        "walk/c": ("this is walk/c.txt",),
    }


def test_table_in_json_lines(folder: Path) -> None:
    rows = [
        {"file": "a.mp4", "caption": "one", "more": 1},
        {"file": "./clip", "caption": ["two", " three\u2028", "two"]},
        {"file": "a.mp4", "caption": "four"},
    ]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "captions.jsonl").write_text(lines + "\n", encoding="utf-8")
    assert captions_of(folder) == {
        "a.mp4": ("one", "four"),
        "b.mp4": (),
        "clip": ("two", "three"),
    }


def test_table_in_commas(folder: Path) -> None:
    table = 'caption,file,fps\r\n"one, and\r\nmore",a.mp4,8\r\ntwo,.\\clip,8\r\n,b.mp4,8\r\n'
    (folder / "captions.csv").write_bytes(table.encode())
    assert captions_of(folder) == {
        "a.mp4": ("one, and\nmore",),
        "b.mp4": (),
        "clip": ("two",),
    }


def test_names_in_a_table_that_are_not_there_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "captions.csv").write_text("file,caption\na.mp4,one\nlost.mp4,two\n")
    with caplog.at_level(logging.WARNING, logger="latte"):
        assert captions_of(folder)["a.mp4"] == ("one",)
    assert "names 1 clips that are not there, such as 'lost.mp4'" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", b"{}\n", "Line 1 of captions.jsonl does not give file and caption"),
        ("captions.jsonl", b'{"file": "a.mp4", "caption": 3}', "Line 1"),
        ("captions.jsonl", b'\n{"file": "a.mp4", "caption": ["x", 3]}', "Line 2"),
        ("captions.jsonl", b"[" * 100_000, "must read like"),
        ("captions.jsonl", b'{"file": "c.mp4", "caption": "x"}', "names no clip.*like 'a.mp4'"),
        ("captions.csv", b"name,text\na.mp4,x\n", "must name the columns file and caption"),
        ("captions.csv", b"file,caption\na.mp4\n", "Line 2 of captions.csv"),
        ("captions.csv", b"file,caption\na.mp4," + b"x" * 200_000, "not a table of commas"),
        ("captions.csv", b"\xff\xfa", "not UTF-8"),
    ],
)
def test_captions_that_cannot_be_read_are_refused(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        find_clips(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xe4\xf6\xfc", "a.txt is not UTF-8"),
        (b"x" * 10_001, "a caption of 10001 characters"),
        (b"x\n" * 600_000, "1,200,000 bytes"),
    ],
)
def test_text_beside_one_clip_that_cannot_be_read_costs_that_clip(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "a.txt").write_bytes(content)
    (folder / "b.txt").write_text("a caption")
    clips = {clip.name: clip for clip in find_clips(folder).clips}
    assert message in clips["a.mp4"].problem
    others = [clip for name, clip in clips.items() if name != "a.mp4"]
    assert others and not any(clip.problem for clip in others)
    with pytest.raises(UnreadableMediaError, match=message):
        next(read_clip(clips["a.mp4"], READING))


@pytest.mark.parametrize("names", [("captions.jsonl", "captions.csv"), ("captions.csv", "b.txt")])
def test_two_sources_of_captions_are_refused(folder: Path, names: tuple[str, str]) -> None:
    for name in names:
        (folder / name).write_text("file,caption\na.mp4,x\n")
    with pytest.raises(InvalidInputError, match=f"in {names[0]} and in {names[1]}"):
        find_clips(folder)
