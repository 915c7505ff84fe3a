"""The starter's own tokenizer and T5 encoder: small, but of the kind and in the files of T5-XXL.

The encoder learns to read before the transformer learns to draw (see `reading.py`). Then it
is frozen, as Latte's own is. (Trained together with the transformer, it made "left" and "right" the
same.)
"""

from __future__ import annotations

import io
import json
import logging
import random
import string
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from ..training.optimizer import make_adamw, seed_global, take_step
from ..types import TEXT_TOKENS
from .captions import all_words
from .reading import ReadingHeads, draw_captions, read_batch

logger = logging.getLogger("latte")

TEXT_WIDTH = 128
NUM_PIECES = 256
EXTRA_IDS = 100  # sentinel tokens that T5 tokenizers append
READING_BATCH = 96
READING_RATE = 1e-3
HIDDEN_WORDS = 0.05
REPORT_EVERY = 100
LETTERS = string.ascii_lowercase + string.digits + ".,-'!?"


def word_salad(num_sentences: int = 3000) -> list[str]:
    """Return random rows of the words of all captions, so that each word becomes one piece.

    SentencePiece keeps a piece only if it was seen before different continuations.
    """
    rng = random.Random(0)
    words = all_words()
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


def hide_words(ids: Tensor, hidden_id: int, rng: random.Random) -> Tensor:
    """Return token ids (B, L) with some rows of each prompt replaced by `hidden_id`."""
    hidden = ids.clone()
    for prompt in range(ids.shape[0]):
        for row in range(ids.shape[1]):
            if ids[prompt, row] > 1 and rng.random() < HIDDEN_WORDS:
                hidden[prompt, row] = hidden_id
    return hidden


def train_text_encoder(
    tokenizer: Any, num_steps: int, *, seed: int, batch_size: int = READING_BATCH
) -> Any:
    """Return a T5 encoder whose every row tells its word and the object that it belongs to."""
    seed_global(seed)
    encoder = build_text_encoder(tokenizer)
    heads = ReadingHeads(TEXT_WIDTH, encoder.config.vocab_size)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = make_adamw(parameters, READING_RATE, weight_decay=0.01)
    hidden_id = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for step in range(num_steps):
        rng = random.Random(f"{seed}-reading-{step}")
        batch, labels = read_batch(tokenizer, draw_captions(rng, batch_size))
        shown = hide_words(batch.input_ids, hidden_id, rng)
        rows = encoder(input_ids=shown, attention_mask=batch.attention_mask).last_hidden_state
        for group in optimizer.param_groups:
            left = (num_steps - step) / max(num_steps / 3, 1)
            group["lr"] = READING_RATE * min((step + 1) / 50, 1.0, left)
        loss = heads(rows, batch.input_ids, batch.attention_mask, labels)
        take_step(loss, optimizer, parameters)
        if step % REPORT_EVERY == 0 or step == num_steps - 1:
            logger.info("text encoder %d/%d loss %.4f", step, num_steps, loss.item())
    return encoder.eval()
