"""Prepared sets written and read back: numbers, captions, classes."""

from __future__ import annotations

import random
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from latte_test_support.latent_sets import SETTINGS, WIDTH, features, latents, write_set
from torch import Tensor

from latte_core.data import LatentSet, LatentSetWriter
from latte_core.errors import InvalidInputError


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
