"""A tiny T5 with a tokenizer of its own, written in the layouts people have on disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WIDTH = 32
HEADS = 4
HEAD_WIDTH = 8
INNER_WIDTH = 48
LAYERS = 2
VOCABULARY = 200
PROMPTS = ["a red circle moving left", "", "yellow and black tropical fish dart through the sea."]
WO = "encoder.block.0.layer.1.DenseReluDense.wo.weight"

SENTENCES = (
    "a red circle moving left",
    "a blue square moving up",
    "a green triangle standing still on a dark background",
    "yellow and black tropical fish dart through the sea.",
    "purple, white and orange shapes travel to the right",
    "the quick brown fox jumps over the lazy dog 0123456789",
    'prompt panda hello quoted "fancy" quotes dashes - brackets x y',
    "leading dash and trailing one two three four five a b c d",
)


def spiece_bytes(vocab_size: int = VOCABULARY) -> bytes:
    """Train a SentencePiece model with T5's special ids: pad 0, end 1, unknown 2."""
    import sentencepiece

    target = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=target,
        vocab_size=vocab_size,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return target.getvalue()


def write_spiece_folder(folder: Path) -> Path:
    """Write a tokenizer folder that holds `spiece.model` and nothing else."""
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(spiece_bytes())
    return folder


def write_json_folder(spiece_folder: Path, folder: Path) -> Path:
    """Write a tokenizer folder that holds `tokenizer.json` and its config, converted."""
    from transformers import T5TokenizerFast

    folder.mkdir(parents=True)
    tokenizer = T5TokenizerFast.from_pretrained(str(spiece_folder), local_files_only=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}), encoding="utf-8"
    )
    return folder


def t5_config(**changes: Any) -> dict[str, Any]:
    """Return a `config.json` for a tiny T5 v1.1 encoder, in the published form."""
    config: dict[str, Any] = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": WIDTH,
        "d_kv": HEAD_WIDTH,
        "d_ff": INNER_WIDTH,
        "num_heads": HEADS,
        "num_layers": LAYERS,
        "vocab_size": VOCABULARY + 56,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-06,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.30.0",
    }
    return {**config, **changes}


def t5_tensors(config: dict[str, Any] | None = None, *, seed: int = 0) -> dict[str, Tensor]:
    """Return random float32 weights of a T5 encoder, under the names of a `t5xxl` file."""
    config = config or t5_config()
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config["vocab_size"], width)}
    for index in range(config["num_layers"]):
        block = f"encoder.block.{index}"
        for name in "qkv":
            shapes[f"{block}.layer.0.SelfAttention.{name}.weight"] = (inner, width)
        shapes[f"{block}.layer.0.SelfAttention.o.weight"] = (width, inner)
        if index == 0:
            buckets = config["relative_attention_num_buckets"]
            name = f"{block}.layer.0.SelfAttention.relative_attention_bias.weight"
            shapes[name] = (buckets, config["num_heads"])
        shapes[f"{block}.layer.0.layer_norm.weight"] = (width,)
        shapes[f"{block}.layer.1.DenseReluDense.wi_0.weight"] = (config["d_ff"], width)
        shapes[f"{block}.layer.1.DenseReluDense.wi_1.weight"] = (config["d_ff"], width)
        shapes[f"{block}.layer.1.DenseReluDense.wo.weight"] = (width, config["d_ff"])
        shapes[f"{block}.layer.1.layer_norm.weight"] = (width,)
    shapes["encoder.final_layer_norm.weight"] = (width,)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        + (1.0 if "layer_norm" in name else 0.0)
        for name, shape in shapes.items()
    }


def write_text_folder(folder: Path, *, num_shards: int = 1, **changes: Any) -> Path:
    """Write `text_encoder/` as diffusers does, in one file or in shards with an index."""
    config = t5_config(**changes)
    tensors = t5_tensors(config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if num_shards == 1:
        save_file(tensors, str(folder / "model.safetensors"))
        return folder
    weight_map: dict[str, str] = {}
    for index in range(num_shards):
        name = f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors"
        names = list(tensors)[index::num_shards]
        save_file({key: tensors[key] for key in names}, str(folder / name))
        weight_map.update(dict.fromkeys(names, name))
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}), encoding="utf-8"
    )
    return folder


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file or a folder's shards: what the safe reader does for the text and VAE packages."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: tensor for file in files for name, tensor in load_file(str(file)).items()}
