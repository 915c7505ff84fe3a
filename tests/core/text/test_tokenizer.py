"""Tokens: 120 with the end token, whatever the folder holds and whatever is typed."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    MissingDependencyError,
)
from latte_core.text.tokenizer import PromptTokenizer

PROMPTS = [
    "a red circle moving left",
    "",
    "a  b\n c",
    "caf\u00e9 \u4e2d \U0001f600",
    "</s> <pad> x",
]


def test_tokens_end_with_the_end_token_and_are_padded_with_zero(
    tokenizer: PromptTokenizer,
) -> None:
    batch = tokenizer.encode(["a red circle moving left", ""])
    counts = batch.mask.sum(dim=1).tolist()

    assert batch.ids.shape == batch.mask.shape == (2, 120)
    assert batch.ids.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert counts[1] == 1
    assert [int(batch.ids[row, counts[row] - 1]) for row in (0, 1)] == [1, 1]
    assert int(batch.ids[~batch.mask].abs().sum()) == 0
    assert batch.notices == ()


@pytest.mark.parity
def test_tokens_equal_those_of_transformers_own_padding_and_truncation(
    tokenizer: PromptTokenizer, latte_folder: Path
) -> None:
    from transformers import T5TokenizerFast

    texts = [*PROMPTS, "a red circle moving left " * 40]
    reference = T5TokenizerFast.from_pretrained(str(latte_folder / "tokenizer"), legacy=True)

    expected = reference(
        texts, padding="max_length", max_length=120, truncation=True, return_tensors="pt"
    )
    batch = tokenizer.encode(texts)

    assert torch.equal(batch.ids, expected.input_ids)
    assert torch.equal(batch.mask.long(), expected.attention_mask)


@pytest.mark.parity
def test_tokens_equal_those_of_sentencepiece_itself(
    tokenizer: PromptTokenizer, latte_folder: Path
) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    pieces.Load(str(latte_folder / "tokenizer" / "spiece.model"))
    text = "yellow and black tropical fish dart through the sea."

    batch = tokenizer.encode([text])

    assert batch.ids[0][batch.mask[0]].tolist() == [*pieces.EncodeAsIds(text), 1]


def test_spiece_alone_and_tokenizer_json_give_the_same_tokens(
    tokenizer: PromptTokenizer, latte_folder: Path
) -> None:
    converted = PromptTokenizer.from_folder(latte_folder / "tokenizer_json")

    assert torch.equal(tokenizer.encode(PROMPTS).ids, converted.encode(PROMPTS).ids)


@pytest.mark.parametrize(
    "name", ["tokenizer/spiece.model", "tokenizer_json/tokenizer.json"], ids=["spiece", "json"]
)
def test_the_tokenizer_file_may_be_named_instead_of_its_folder(
    name: str, tokenizer: PromptTokenizer, latte_folder: Path
) -> None:
    by_file = PromptTokenizer.from_folder(latte_folder / name)

    assert torch.equal(by_file.encode(PROMPTS).ids, tokenizer.encode(PROMPTS).ids)


def test_loading_asks_no_server(latte_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    for name in ("tokenizer", "tokenizer_json"):
        PromptTokenizer.from_folder(latte_folder / name).encode(["a"])


def test_r28_a_long_prompt_is_cut_with_both_counts_and_the_first_dropped_words(
    tokenizer: PromptTokenizer,
) -> None:
    long = " ".join(["red"] * 3000)
    total = int(tokenizer.encode([long], length=100_000).mask.sum())

    batch = tokenizer.encode([long])

    assert batch.mask.all()
    assert int(batch.ids[0, -1]) == 1
    assert len(batch.notices) == 1
    assert f"{total} tokens" in batch.notices[0]
    assert "first 120" in batch.notices[0]
    assert "red red" in batch.notices[0]


@pytest.mark.parametrize(
    "text",
    ["a red circle " * 77_000, "a" * 1_000_000, "\u4e2d a" * 330_000],
    ids=["words", "one_word", "unknown"],
)
def test_r28_a_million_characters_are_tokenised_under_a_second(
    tokenizer: PromptTokenizer, text: str
) -> None:
    start = time.process_time()
    batch = tokenizer.encode([text])

    assert time.process_time() - start < 1.0
    assert torch.equal(batch.ids, tokenizer.encode([text[:2000]]).ids)
    assert "more than" in batch.notices[0]
    assert len(batch.notices[0]) < 400


def test_r28_leading_blanks_do_not_use_up_the_prompt(tokenizer: PromptTokenizer) -> None:
    assert torch.equal(tokenizer.encode([" " * 500_000 + "red"]).ids, tokenizer.encode(["red"]).ids)


@given(text=st.text())
@settings(deadline=None, max_examples=200)
def test_r29_any_text_is_tokenised(text: str, tokenizer: PromptTokenizer) -> None:
    batch = tokenizer.encode([text])

    assert int(batch.ids.max()) < tokenizer.num_pieces
    assert bool(batch.mask[0, 0])


@pytest.mark.parametrize("text", ["\ud800", "\x00", "<extra_id_7> red", "\u202e\u0627"])
def test_r29_awkward_text_stays_inside_the_vocabulary(
    text: str, tokenizer: PromptTokenizer
) -> None:
    assert int(tokenizer.encode([text]).ids.max()) < tokenizer.num_pieces


@pytest.mark.parametrize("texts", [[], "one string", [None], [7]])
def test_anything_but_a_list_of_texts_is_refused(texts: object, tokenizer: PromptTokenizer) -> None:
    with pytest.raises(InvalidInputError):
        tokenizer.encode(texts)  # type: ignore[arg-type]


def test_a_tokenizer_larger_than_the_encoder_is_refused(tokenizer: PromptTokenizer) -> None:
    tokenizer.check_vocabulary(tokenizer.num_pieces)

    with pytest.raises(IncompatibleInputsError, match="different models"):
        tokenizer.check_vocabulary(tokenizer.num_pieces - 1)


def test_a_folder_without_a_tokenizer_says_which_file_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"tokenizer.json or spiece.model"):
        PromptTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"model": 1}', bytes(range(256))])
def test_a_damaged_tokenizer_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / name).write_bytes(content)

    with pytest.raises(CorruptCheckpointError, match="broken"):
        PromptTokenizer.from_folder(folder)


def test_a_tokenizer_with_other_special_numbers_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    folder = tmp_path / "other"
    folder.mkdir()
    with (folder / "spiece.model").open("wb") as target:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red circle", "a blue square"] * 8),
            model_writer=target,
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
        )

    with pytest.raises(CorruptCheckpointError, match="T5 has"):
        PromptTokenizer.from_folder(folder)


def test_tokenizer_json_needs_neither_sentencepiece_nor_protobuf(
    tokenizer: PromptTokenizer, latte_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sentencepiece", "google.protobuf"):
        monkeypatch.setitem(sys.modules, package, None)

    converted = PromptTokenizer.from_folder(latte_folder / "tokenizer_json")

    assert torch.equal(converted.encode(PROMPTS).ids, tokenizer.encode(PROMPTS).ids)


@pytest.mark.parametrize("package", ["transformers", "sentencepiece", "google.protobuf"])
def test_missing_package_is_named_with_the_install_line(
    package: str, latte_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match="pip install transformers sentencepiece"):
        PromptTokenizer.from_folder(latte_folder / "tokenizer")
