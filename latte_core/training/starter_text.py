"""The starter's own tokenizer and T5 encoder: small, but of the kind and in the files of T5-XXL."""

from __future__ import annotations

import io
import json
import random
import string
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from ..types import TEXT_TOKENS
from .drawing import all_captions

TEXT_WIDTH = 128
NUM_PIECES = 256
EXTRA_IDS = 100  # sentinel tokens that T5 tokenizers append
LETTERS = string.ascii_lowercase + string.digits + ".,-'!?"


def word_salad(num_sentences: int = 3000) -> list[str]:
    """Return random rows of the words of all captions, so that each word becomes one piece.

    SentencePiece keeps a piece only if it was seen before different continuations.
    """
    rng = random.Random(0)
    words = sorted({word for caption in all_captions() for word in caption.split()})
    return [" ".join(rng.choices(words, k=6)) for _ in range(num_sentences)]


def without_paths(model: bytes) -> bytes:
    """Remove the name of the temporary rules file, so that the same seed gives the same bytes."""
    proto: Any = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(model)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString()


def write_tokenizer(folder: Path) -> Any:
    """Train a SentencePiece model on the captions and write spiece.model and tokenizer.json.

    Capital letters are folded to small ones by the tokenizer itself, so that a host which does not
    clean prompts reads "Red" as "red".
    """
    import sentencepiece

    sentences = word_salad() + list(LETTERS) * 4
    folding = "".join(f"{ord(c):X}\t{ord(c.lower()):X}\n" for c in string.ascii_uppercase)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "rules.tsv"
        rules.write_text(folding, encoding="ascii")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=NUM_PIECES,
            hard_vocab_limit=False,
            model_type="unigram",
            normalization_rule_tsv=str(rules),
            required_chars=LETTERS,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    (folder / "spiece.model").write_bytes(without_paths(model.getvalue()))
    tokenizer = load_tokenizer(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_config(folder)
    return tokenizer


def load_tokenizer(folder: Path) -> Any:
    """Open the tokenizer in `folder`."""
    fast: Any = import_module("transformers").T5TokenizerFast
    return fast.from_pretrained(str(folder), model_max_length=TEXT_TOKENS)


def write_tokenizer_config(folder: Path) -> None:
    """Write tokenizer_config.json in the form that every transformers version reads."""
    values = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_ids": EXTRA_IDS,
        "additional_special_tokens": [f"<extra_id_{k}>" for k in range(EXTRA_IDS)],
        "model_max_length": TEXT_TOKENS,
        "clean_up_tokenization_spaces": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values, indent=2) + "\n")


def build_text_encoder(tokenizer: Any) -> Any:
    """Return an untrained T5 v1.1 encoder of width 128, 3 layers."""
    transformers: Any = import_module("transformers")
    config = transformers.T5Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return transformers.T5EncoderModel(config)
