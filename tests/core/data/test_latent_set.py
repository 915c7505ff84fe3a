"""Prepared sets written and read back: numbers, captions, classes, and what is refused."""

from __future__ import annotations

import json
import random
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latte_core.data import LatentSet, LatentSetWriter
from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    InvalidInputError,
    NonFiniteError,
)

WIDTH = 6
SETTINGS: dict[str, Any] = {
    "latent_height": 3,
    "latent_width": 5,
    "scaling_factor": 0.18215,
    "model": "tiny",
    "dtype": "float32",
}


def latents(num_frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((num_frames, 4, 3, 5), generator=generator)


def features(texts: Sequence[str]) -> list[Tensor]:
    """Return rows that a text alone decides: one for each word, and one for the end."""
    rows: list[Tensor] = []
    for text in texts:
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        rows.append(torch.randn((len(text.split()) + 1, WIDTH), generator=generator))
    return rows


def write_set(folder: Path, num_clips: int = 7, **changes: Any) -> LatentSet:
    """Write clips of 2, 3 ... frames, some with captions, three to a file."""
    writer = LatentSetWriter(
        folder, **{**SETTINGS, "text_width": WIDTH, **changes}, clips_per_shard=3
    )
    for index in range(num_clips):
        captions = [f"clip {index}", "a clip"][: index % 3]
        writer.add(latents(index + 2, index), name=f"{index}.mp4", captions=captions)
    writer.add_texts(features, empty_rows=torch.full((120, WIDTH), 0.5))
    return writer.finish()


def test_set_reads_back_what_was_written(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    found = LatentSet.open(tmp_path / "set", verify=True)
    assert len(found) == found.info.num_clips == 7
    assert [found.num_frames(index) for index in range(7)] == [2, 3, 4, 5, 6, 7, 8]
    assert found.name(4) == "4.mp4"
    assert (found.info.latent_height, found.info.latent_width, found.info.channels) == (3, 5, 4)
    assert (found.info.scaling_factor, found.info.text_width) == (0.18215, WIDTH)
    assert (found.info.has_flips, found.info.has_std, found.info.class_names) == (False, False, ())
    for index in range(7):
        frames = list(range(index + 2))[::-1]
        mean, std = found.moments(index, frames)
        assert torch.equal(mean, latents(index + 2, index).flip(0))
        assert std is None


@pytest.mark.parametrize("frames", [[0], [3, 1], [2, 2, 2], range(4), (3,)])
def test_any_frames_come_in_the_order_asked_for(tmp_path: Path, frames: Sequence[int]) -> None:
    found = write_set(tmp_path / "set")
    assert torch.equal(found.moments(2, frames)[0], latents(4, 2)[list(frames)])


def test_what_is_read_may_be_changed_without_changing_the_set(tmp_path: Path) -> None:
    found = write_set(tmp_path / "set")
    found.moments(0, [0, 1])[0].zero_()
    found.context(1).zero_()
    rows = found.empty_rows()
    assert rows is not None
    rows.zero_()
    assert torch.equal(found.moments(0, [0, 1])[0], latents(2, 0))
    assert torch.equal(found.context(1), features([found.caption(1)])[0])
    assert LatentSet.open(tmp_path / "set", verify=True).empty_rows() is not None


def test_captions_are_numbered_and_encoded_once(tmp_path: Path) -> None:
    found = write_set(tmp_path / "set")
    assert [found.caption_ids(index) for index in range(7)] == [
        (0,),
        (1,),
        (2, 3),
        (0,),
        (4,),
        (5, 3),
        (0,),
    ]
    assert [found.caption(number) for number in range(found.num_captions)] == [
        "",
        "clip 1",
        "clip 2",
        "a clip",
        "clip 4",
        "clip 5",
    ]
    assert found.empty_caption_id == 0
    for number in range(6):
        assert torch.equal(found.context(number), features([found.caption(number)])[0])


def test_empty_caption_keeps_its_padding_rows_if_they_were_given(tmp_path: Path) -> None:
    rows = write_set(tmp_path / "set").empty_rows()
    assert rows is not None
    assert torch.equal(rows, torch.full((120, WIDTH), 0.5))
    writer = LatentSetWriter(tmp_path / "other", **SETTINGS, text_width=WIDTH)
    writer.add(latents(1), name="a")
    writer.add_texts(features)
    assert writer.finish().empty_rows() is None


def test_only_new_captions_are_encoded_in_batches(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def encode(texts: Sequence[str]) -> list[Tensor]:
        asked.append(list(texts))
        return features(texts)

    told: list[tuple[int, int]] = []
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, text_width=WIDTH)
    writer.add(latents(1), name="a", captions=[f"caption {number}" for number in range(300)])
    writer.add_texts(encode, callback=lambda done, total: told.append((done, total)))
    assert [text for some in asked for text in some] == ["", *(f"caption {k}" for k in range(300))]
    assert max(map(len, asked)) <= 16
    assert told[-1] == (301, 301)
    writer.add(latents(1), name="b", captions=["caption 7", "one more"])
    del asked[:]
    writer.add_texts(encode)
    assert asked == [["one more"]]
    found = writer.finish()
    assert found.caption(found.caption_ids(1)[1]) == "one more"
    assert torch.equal(found.context(found.caption_ids(1)[0]), features(["caption 7"])[0])


def test_spread_and_mirrored_clips_are_stored_when_asked_for(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, has_flips=True, has_std=True)
    parts = [latents(3, seed) for seed in range(4)]
    writer.add(parts[0], parts[1], name="a", flipped_mean=parts[2], flipped_std=parts[3])
    found = writer.finish()
    plain, mirrored = found.moments(0, [2, 0]), found.moments(0, [2, 0], flipped=True)
    for got, expected in zip((*plain, *mirrored), parts, strict=True):
        assert got is not None
        assert torch.equal(got, expected[[2, 0]])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_smaller_number_formats_come_back_as_float32(
    tmp_path: Path, dtype: str, tolerance: float
) -> None:
    found = write_set(tmp_path / "set", dtype=dtype)
    mean, _ = found.moments(3, range(5))
    assert mean.dtype == found.context(1).dtype == torch.float32
    assert (mean - latents(5, 3)).abs().max() < tolerance
    assert found.info.dtype == dtype


def test_classes_are_labelled_in_alphabetical_order(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS)
    for index, name in enumerate(["walk", "Run", "jump", "walk"]):
        writer.add(latents(2), name=str(index), class_name=name)
    found = writer.finish()
    assert found.info.class_names == ("Run", "jump", "walk")
    assert [found.class_label(index) for index in range(4)] == [2, 0, 1, 2]


def test_given_classes_keep_their_order_also_without_clips(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, class_names=["z", "empty", "a"])
    writer.add(latents(2), name="0", class_name="a")
    found = writer.finish()
    assert found.info.class_names == ("z", "empty", "a")
    assert found.class_label(0) == 2


def test_set_without_text_has_captions_but_no_features(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS)
    writer.add(latents(2), name="0", captions=["a word"])
    found = writer.finish()
    assert found.caption(found.caption_ids(0)[0]) == "a word"
    with pytest.raises(InvalidInputError, match="without a text encoder"):
        found.context(0)
    with pytest.raises(InvalidInputError, match="begun without text"):
        LatentSetWriter(tmp_path / "other", **SETTINGS).add_texts(features)


def test_thousand_clips_are_read_at_random_fast_and_right(tmp_path: Path) -> None:
    writer = LatentSetWriter(tmp_path / "set", **SETTINGS, text_width=WIDTH)
    stored = latents(16000).unflatten(0, (1000, 16))
    for index in range(1000):
        writer.add(stored[index], name=str(index), captions=[f"caption {index % 400}"])
    writer.add_texts(features)
    writer.finish()
    found = LatentSet.open(tmp_path / "set")
    rng = random.Random(0)
    batches = [[(rng.randrange(1000), rng.randrange(16)) for _ in range(96)] for _ in range(6)]
    fastest = float("inf")
    for batch in batches:
        start = time.perf_counter()
        means = [found.moments(clip, [frame])[0] for clip, frame in batch]
        texts = [found.context(found.caption_ids(clip)[0]) for clip, _ in batch]
        fastest = min(fastest, time.perf_counter() - start)
        assert torch.equal(torch.cat(means), torch.stack([stored[c, f] for c, f in batch]))
        assert len(texts) == 96
    assert fastest < 0.05  # a few thousandths of a second on a free core


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for path in (tmp_path / "set").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == usual


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
