"""The starter's tokenizer and text encoder."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from latte_core.starter import text_encoder as starter_text
from latte_core.starter.captions import all_words, compose_caption, compose_plain_caption
from latte_core.starter.probe import fit_probe, probe_text_encoder
from latte_core.starter.reading import IGNORED, PARTS, draw_spec, read_batch
from latte_core.starter.scene_parts import ClipSpec
from latte_core.starter.scenes import Mixture, make_clip_spec


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return starter_text.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_the_tokenizer_knows_every_caption_word_as_one_piece(tokenizer: Any) -> None:
    assert [word for word in all_words() if len(tokenizer(word).input_ids) != 2] == []


def test_the_tokenizer_folds_capitals_and_closes_texts(tokenizer: Any) -> None:
    ids = tokenizer("a purple triangle moving right").input_ids
    assert len(ids) == 6
    assert tokenizer("A Purple TRIANGLE moving Right").input_ids == ids
    assert tokenizer("").input_ids == [1]
    assert tokenizer.pad_token_id == 0


def test_the_tokenizer_is_the_same_every_time_and_names_no_path(tmp_path: Path) -> None:
    for name in ("first", "second"):
        starter_text.write_tokenizer(tmp_path / name)
    for path in sorted((tmp_path / "first").iterdir()):
        data = path.read_bytes()
        assert data == (tmp_path / "second" / path.name).read_bytes()
        assert b"tmp" not in data


def pair_of(background: str) -> ClipSpec:
    """Return "a red circle moving left and a small blue square standing still on ..."."""
    red = make_clip_spec(random.Random(0), color="red", shape="circle", direction="left")
    blue = make_clip_spec(
        random.Random(0), color="blue", shape="square", direction="still", size="small"
    )
    return ClipSpec(objects=(red.objects[0], blue.objects[0]), background=background)


def test_rows_are_labelled_with_the_object_that_their_word_belongs_to(tokenizer: Any) -> None:
    caption = compose_plain_caption(pair_of("gray"))
    text = "a red circle moving left and a small blue square standing still on a gray background"
    assert caption.text == text
    batch, labels = read_batch(tokenizer, [caption])
    assert batch.input_ids.shape == (1, 17)
    told = {
        part: [None if k == IGNORED else PARTS[part][k] for k in labels[part][0].tolist()]
        for part in PARTS
    }
    none = [None] * 5  # on a gray background, and the end
    assert told["color"] == ["red"] * 5 + [None] + ["blue"] * 6 + none
    assert told["shape"] == ["circle"] * 5 + [None] + ["square"] * 6 + none
    assert told["direction"] == ["left"] * 5 + [None] + ["still"] * 6 + none
    assert told["size"] == ["not said"] * 5 + [None] + ["small"] * 6 + none
    assert told["background"] == ["gray"] * 17
    assert told["objects"] == ["two"] * 17


def test_padding_is_not_labelled(tokenizer: Any) -> None:
    rng = random.Random(0)
    short = compose_plain_caption(make_clip_spec(rng))
    batch, labels = read_batch(tokenizer, [short, compose_plain_caption(pair_of("navy"))])
    padding = batch.attention_mask == 0
    assert bool(padding[0].any())
    for values in labels.values():
        assert bool((values[padding] == IGNORED).all())


def test_captions_to_read_hold_out_what_training_does() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        spec = draw_spec(rng, Mixture(pairs=0.5))
        looks = {(one.color, one.shape) for one in spec.objects}
        assert not looks & {("yellow", "triangle"), ("purple", "square"), ("green", "circle")}
        assert compose_caption(spec, rng).text


def test_a_probe_reads_what_is_linear_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (600,), generator=generator)
    labels[::7] = IGNORED
    rows = torch.randn(600, 8, generator=generator)
    chance = fit_probe(rows, labels, 3)
    rows[:, 2] += 10 * labels
    rows[:, 5] += 10 * (labels == 1)
    probe = fit_probe(rows, labels, 3)
    known = labels != IGNORED
    inputs = torch.cat([rows, torch.ones(600, 1)], dim=1).double()[known]
    assert float(((inputs @ probe).argmax(1) == labels[known]).double().mean()) > 0.98
    assert float(((inputs @ chance).argmax(1) == labels[known]).double().mean()) < 0.8


def test_the_text_encoder_learns_to_tell_words_and_objects_apart(tokenizer: Any) -> None:
    encoder = starter_text.train_text_encoder(tokenizer, 60, seed=0, batch_size=32)
    prompts = [f"a red square moving {word}" for word in ("left", "right", "up", "down")]
    with torch.no_grad():
        rows = encoder(**tokenizer(prompts, return_tensors="pt")).last_hidden_state
    words = rows[:, 4]
    apart = torch.cdist(words, words) + 1e9 * torch.eye(4)
    assert float(apart.min()) > 0.5 * float(words.norm(dim=1).mean())
    shares = probe_text_encoder(tokenizer, encoder, num_captions=200)
    assert shares["wordings"]["shape"] > 0.6
    assert shares["pairs"]["objects"] > 0.9
