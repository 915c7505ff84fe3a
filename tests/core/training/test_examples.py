"""What an update is trained on: by number, never by process or history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.training import features_of, tiny_config, write_set

from latte_core.errors import IncompatibleInputsError
from latte_core.training.examples import Examples, collate, order_of_epoch
from latte_core.training.train_data import TrainData, match_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    return folder


def examples_of(folder: Path, task: str = "text", **changes: Any) -> Examples:
    config = tiny_config(folder, folder / "run", **changes)
    names = ("ant", "bee", "cat") if task == "class" else ()
    data = TrainData.open(
        [folder],
        config,
        task=task,
        text_width=12 if task == "text" else None,
        num_classes=len(names),
        class_names=names,
    )
    return Examples(data, config, has_null_class=task == "class")


def test_an_example_is_the_same_however_often_and_in_whatever_order_it_is_made(
    folder: Path,
) -> None:
    first, second = examples_of(folder, num_images=2), examples_of(folder, num_images=2)
    forwards = [first.make(k) for k in range(12)]
    backwards = [second.make(k) for k in reversed(range(12))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.noise, other.noise)
        assert one.timestep == other.timestep
        assert all(torch.equal(a, b) for a, b in zip(one.contexts, other.contexts, strict=True))


def test_every_clip_comes_once_in_an_epoch_and_in_another_order_in_the_next() -> None:
    orders = [order_of_epoch(3, epoch, 10).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert order_of_epoch(4, 0, 10).tolist() != orders[0]


def test_noise_and_timesteps_of_examples_differ(folder: Path) -> None:
    made = [examples_of(folder).make(k) for k in range(20)]
    assert len({one.timestep for one in made}) > 15
    assert len({float(one.noise.sum()) for one in made}) == 20
    noise = torch.stack([one.noise for one in made])
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_stratified_timesteps_take_one_of_each_part(folder: Path) -> None:
    made = examples_of(folder, timestep_draw="stratified", batch_size=4)
    parts = [[made.make(4 * step + k).timestep // 250 for k in range(4)] for step in range(5)]
    assert parts == [[0, 1, 2, 3]] * 5


def test_uniform_timesteps_reach_both_ends(folder: Path) -> None:
    made = examples_of(folder)
    counts = Counter(made.make(k).timestep // 100 for k in range(400))
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 70


def test_hidden_captions_are_the_empty_one_as_long_as_the_caption(folder: Path) -> None:
    hidden = examples_of(folder, drop_condition=1.0)
    shown = examples_of(folder, drop_condition=0.0)
    rows = hidden.data.sets[0].empty_rows()
    assert rows is not None
    for k in range(6):
        empty, caption = hidden.make(k).contexts[0], shown.make(k).contexts[0]
        assert empty.shape == caption.shape
        assert torch.equal(empty, rows[: len(empty)])
    captions = {f"clip {k}" for k in range(10)} | {f"number {k}" for k in range(10)}
    known = [features_of(text) for text in captions]
    assert any(torch.allclose(one, caption) for one in known if one.shape == caption.shape)


def test_hidden_classes_are_marked_and_keep_their_label(folder: Path) -> None:
    batch = collate([examples_of(folder, "class", drop_condition=1.0).make(k) for k in range(4)])
    assert batch.dropped.tolist() == [True] * 4
    assert batch.labels is not None and set(batch.labels.tolist()) <= {0, 1, 2}


def test_scattered_frames_keep_their_places(folder: Path) -> None:
    example = examples_of(folder, frame_choice="scattered", num_frames=3).make(0)
    assert example.positions is not None
    assert list(example.positions) == sorted(set(example.positions))
    examples = examples_of(folder, frame_choice="scattered", num_frames=3)
    clip = int(order_of_epoch(3407, 0, len(examples.data))[0])
    mean, _ = examples.data.moments(clip, example.positions, flipped=False)
    assert torch.equal(example.latents, mean.transpose(0, 1))


def test_texts_of_a_batch_are_padded_and_masked(folder: Path) -> None:
    made = [examples_of(folder, num_images=1, drop_condition=0.0).make(k) for k in range(5)]
    batch = collate(made)
    assert batch.context is not None and batch.mask is not None
    assert batch.image_context is not None and batch.image_mask is not None
    for row, one in enumerate(made):
        count = len(one.contexts[0])
        assert batch.mask[row].tolist() == [1.0] * count + [0.0] * (batch.mask.shape[1] - count)
        assert torch.equal(batch.context[row, :count], one.contexts[0])
        assert torch.equal(batch.image_context[row, : len(one.contexts[1])], one.contexts[1])
    assert batch.latents.shape == (5, 4, 5, 4, 6)


def test_classes_are_matched_by_name_where_both_have_names() -> None:
    assert match_classes(("cat", "ant"), ("ant", "bee", "cat"), 3) == (2, 0)
    assert match_classes(("x", "y"), (), 2) == (0, 1)
    with pytest.raises(IncompatibleInputsError, match="does not have: dog"):
        match_classes(("cat", "dog"), ("ant", "bee", "cat"), 3)
    with pytest.raises(IncompatibleInputsError, match="3 classes, but the prepared set has 2"):
        match_classes(("x", "y"), (), 3)
