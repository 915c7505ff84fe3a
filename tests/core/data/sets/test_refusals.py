"""Prepared sets: questions, clips and folders that are refused, and damage that is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.latent_sets import SETTINGS, WIDTH, features, latents, write_set
from torch import Tensor

from latte_core.data import LatentSet, LatentSetWriter
from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    InvalidInputError,
    NonFiniteError,
)


@pytest.mark.parametrize("index", [-1, 7])
def test_clip_that_is_not_there_is_named_with_the_range(tmp_path: Path, index: int) -> None:
    found = write_set(tmp_path / "set")
    for ask in (found.num_frames, found.class_label, found.caption_ids):
        with pytest.raises(InvalidInputError, match=f"Clip {index} .* clips 0 to 6"):
            ask(index)


@pytest.mark.parametrize("frames", [[], [-1], [4], [0, 4]])
def test_frame_that_is_not_there_is_named_with_the_range(tmp_path: Path, frames: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="frames 0 to 3"):
        write_set(tmp_path / "set").moments(2, frames)


def test_mirrored_clips_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no mirrored clips"):
        write_set(tmp_path / "set").moments(2, [0], flipped=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": torch.zeros(2, 4, 3, 4)}, r"is \(2, 4, 3, 4\)"),
        ({"mean": torch.zeros(0, 4, 3, 5)}, r"is \(0, 4, 3, 5\)"),
        ({"std": torch.zeros(2, 4, 3, 5)}, "stores mean of every clip"),
        ({"name": "first"}, "in the set already"),
        ({"class_name": "swim"}, "of class 'swim'"),
    ],
)
def test_clip_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, class_names=["run"])
    writer.add(latents(2), name="first", class_name="run")
    clip: dict[str, Any] = {"mean": latents(2), "name": "b", "class_name": "run", **changes}
    with pytest.raises(InvalidInputError, match=message):
        writer.add(**clip)
    assert writer.num_clips == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_number_that_cannot_be_stored_is_refused(tmp_path: Path, value: float) -> None:
    writer = LatentSetWriter(tmp_path / "set", **{**SETTINGS, "dtype": "float16"})
    with pytest.raises(NonFiniteError, match="too large for float16"):
        writer.add(torch.full((1, 4, 3, 5), value), name="a")


def test_set_cannot_be_finished_before_it_is_complete(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, text_width=WIDTH)
    with pytest.raises(InvalidInputError, match="no clips"):
        writer.finish()
    writer.add(latents(1), name="a", captions=["a"], class_name="run")
    with pytest.raises(InvalidInputError, match="Call add_texts first"):
        writer.finish()
    writer.add(latents(1), name="b")
    writer.add_texts(features)
    with pytest.raises(InvalidInputError, match="b has none"):
        writer.finish()


@pytest.mark.parametrize("rows", [torch.zeros(2, WIDTH + 1), torch.zeros(0, WIDTH)])
def test_features_of_another_width_are_refused(tmp_path: Path, rows: Tensor) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, text_width=WIDTH)
    writer.add(latents(1), name="a")
    with pytest.raises(InvalidInputError, match=rf"this set stores \(tokens, {WIDTH}\)"):
        writer.add_texts(lambda texts: [rows for _ in texts])


def test_folder_that_is_no_set_or_unfinished_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is no folder.*prepare VIDEOS SET"):
        LatentSet.open(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match=r"has no set\.json"):
        LatentSet.open(tmp_path)
    LatentSetWriter(tmp_path / "set", **SETTINGS).add(latents(1), name="a")
    with pytest.raises(InvalidInputError, match="unfinished"):
        LatentSet.open(tmp_path / "set")


def test_finished_set_and_foreign_folder_are_not_written_to(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    with pytest.raises(InvalidInputError, match="finished prepared set already"):
        LatentSetWriter(tmp_path / "set", **SETTINGS)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").touch()
    with pytest.raises(InvalidInputError, match=r"holds holiday\.jpg"):
        LatentSetWriter(tmp_path / "other", **SETTINGS)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["holiday.jpg"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def swap_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def fill_with_nan(path: Path) -> None:
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header] + b"\xff" * (len(content) - header))


@pytest.mark.parametrize("name", ["latents-00001.safetensors", "text-00000.safetensors"])
@pytest.mark.parametrize("damage", [cut, grow, Path.unlink, lambda path: path.write_bytes(b"")])
def test_file_of_another_size_is_refused_at_once(tmp_path: Path, name: str, damage: Any) -> None:
    write_set(tmp_path / "set")
    damage(tmp_path / "set" / name)
    with pytest.raises(CheckpointError, match=name):
        LatentSet.open(tmp_path / "set")


@pytest.mark.parametrize("name", ["latents-00001.safetensors", "text-00000.safetensors"])
def test_changed_bit_is_found_when_bytes_are_verified(tmp_path: Path, name: str) -> None:
    write_set(tmp_path / "set")
    LatentSet.open(tmp_path / "set", verify=True)
    swap_bit(tmp_path / "set" / name)
    LatentSet.open(tmp_path / "set")
    with pytest.raises(CorruptCheckpointError, match=f"{name}.*recorded SHA-256"):
        LatentSet.open(tmp_path / "set", verify=True)


def test_numbers_that_are_damaged_are_found_when_they_are_read(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    for name in ("latents-00000.safetensors", "text-00000.safetensors"):
        fill_with_nan(tmp_path / "set" / name)
    found = LatentSet.open(tmp_path / "set")
    with pytest.raises(CorruptCheckpointError, match="NaN"):
        found.moments(0, [0])
    with pytest.raises(CorruptCheckpointError, match="NaN"):
        found.context(1)
    with pytest.raises(CorruptCheckpointError, match="NaN"):
        found.empty_rows()
    assert found.moments(5, [0])[0].isfinite().all()


def test_file_that_is_replaced_after_opening_is_told(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    found = LatentSet.open(tmp_path / "set")
    (tmp_path / "set" / "latents-00001.safetensors").write_bytes(b"something else")
    (tmp_path / "set" / "latents-00002.safetensors").unlink()
    for clip in (3, 6):
        with pytest.raises(CorruptCheckpointError, match="has changed since it was opened"):
            found.moments(clip, [0])


def change(values: dict[str, Any], place: str, value: object) -> None:
    *way, last = place.split("/")
    for step in way:
        values = values[int(step)] if step.isdigit() else values[step]  # type: ignore[index]
    if value is None:
        del values[last]
    else:
        values[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("format", "something"),
        ("info", 3),
        ("info/num_clips", 8),
        ("info/num_clips", True),
        ("info/latent_height", 4),
        ("info/channels", 0),
        ("info/scaling_factor", "much"),
        ("info/dtype", "float16"),
        ("info/dtype", "complex64"),
        ("info/text_width", 7),
        ("info/text_width", None),
        ("info/has_flips", True),
        ("info/class_names", "abc"),
        ("info/class_names", ["a", "a"]),
        ("info/details", {"a": 1}),
        ("shards", {}),
        ("shards/0", 5),
        ("shards/0/name", "../latents-00000.safetensors"),
        ("shards/0/name", "latents-00001.safetensors"),
        ("shards/0/num_bytes", 1),
        ("shards/0/count", 2),
        ("shards/0/sha256", None),
        ("text_shards", []),
        ("skipped", None),
    ],
)
def test_set_file_that_does_not_describe_the_set_is_refused(
    tmp_path: Path, place: str, value: object
) -> None:
    write_set(tmp_path / "set")
    path = tmp_path / "set" / "set.json"
    values = json.loads(path.read_text())
    if place == "shards/0":
        values["shards"][0] = value
    else:
        change(values, place, value)
    path.write_text(json.dumps(values))
    with pytest.raises(CorruptCheckpointError, match=r"is damaged"):
        LatentSet.open(tmp_path / "set", verify=True)


def test_set_of_another_version_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    path = tmp_path / "set" / "set.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InvalidInputError, match="version 2, but .* version 1"):
        LatentSet.open(tmp_path / "set")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_set_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "set" / "set.json").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"set\.json"):
        LatentSet.open(tmp_path / "set")
