"""The T5 encoder from every layout people have on disk, and what is refused as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.text import PROMPTS, WO
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint.recognition.identify import require_t5
from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from latte_core.text.config import T5EncoderConfig
from latte_core.text.t5 import TextEncoder
from latte_core.text.tokenizer import PromptTokenizer


def test_a_sharded_folder_equals_a_single_file(
    encoder: TextEncoder, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "t5xxl_fp32.safetensors"
    save_file(tiny_text.t5_tensors(), str(path))

    single = TextEncoder.from_file(path, read=tiny_text.read_safetensors, tokenizer=tokenizer)

    assert torch.equal(single.encode(PROMPTS).embeds, encoder.encode(PROMPTS).embeds)


def test_every_weight_comes_from_the_file(encoder: TextEncoder) -> None:
    state = encoder.module.state_dict()

    assert all(torch.equal(state[name], value) for name, value in tiny_text.t5_tensors().items())
    assert not any(parameter.is_meta for parameter in encoder.module.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    assert encoder.module.encoder.embed_tokens is encoder.module.shared


@pytest.mark.parametrize(
    "prefix", ["", "text_encoders.t5xxl.transformer.", "t5xxl.transformer."], ids=["bare", "a", "b"]
)
def test_prefixes_and_decoders_of_other_files_are_left_out(
    prefix: str, encoder: TextEncoder, tokenizer: PromptTokenizer
) -> None:
    tensors = {f"{prefix}{name}": value for name, value in tiny_text.t5_tensors().items()}
    tensors[f"{prefix}decoder.final_layer_norm.weight"] = torch.ones(32)
    tensors[f"{prefix}lm_head.weight"] = torch.ones(4, 32)
    tensors[f"{prefix}encoder.embed_tokens.weight"] = tensors[f"{prefix}shared.weight"]

    built = TextEncoder.from_tensors(tensors, tokenizer)

    assert torch.equal(built.encode(PROMPTS).embeds, encoder.encode(PROMPTS).embeds)


@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer."], ids=["bare", "inside"])
def test_a_table_of_words_under_its_other_name_alone_is_read(
    prefix: str, encoder: TextEncoder, tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    tensors = {f"{prefix}{name}": value for name, value in tiny_text.t5_tensors().items()}
    alias = f"{prefix}encoder.embed_tokens.weight"
    tensors[alias] = tensors.pop(f"{prefix}shared.weight")
    save_file(tensors, tmp_path / "t5xxl.safetensors")

    require_t5(tmp_path / "t5xxl.safetensors")
    built = TextEncoder.from_tensors(tensors, tokenizer)

    assert torch.equal(built.encode(PROMPTS).embeds, encoder.encode(PROMPTS).embeds)


@pytest.mark.parametrize(
    "name", ["shared.weight", "encoder.block.1.layer.1.DenseReluDense.wo.weight"]
)
def test_r11_an_encoder_that_is_not_whole_is_refused_from_its_header(
    name: str, tmp_path: Path
) -> None:
    tensors = tiny_text.t5_tensors()
    del tensors[name]
    save_file(tensors, tmp_path / "t5.safetensors")

    with pytest.raises(UnknownArchitectureError, match="cannot be used"):
        require_t5(tmp_path / "t5.safetensors")


def test_r10_the_first_t5_is_refused_from_its_header(tmp_path: Path) -> None:
    save_file(old_t5(), tmp_path / "t5.safetensors")

    with pytest.raises(UnknownArchitectureError, match=r"T5 1\.0"):
        require_t5(tmp_path / "t5.safetensors")


def umt5() -> dict[str, Tensor]:
    tensors = tiny_text.t5_tensors()
    tensors["shared.weight"] = torch.empty(256_384, 32, device="meta")
    return tensors


def deeper_umt5() -> dict[str, Tensor]:
    tensors = tiny_text.t5_tensors()
    name = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    return {**tensors, name: torch.zeros(32, 4)}


def old_t5() -> dict[str, Tensor]:
    return {name.replace("wi_0", "wi"): value for name, value in tiny_text.t5_tensors().items()}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (umt5, "umT5"),
        (deeper_umt5, "umT5"),
        (lambda: {"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, "CLIP"),
        (lambda: {"transformer.resblocks.0.attn.in_proj_weight": torch.ones(2, 2)}, "CLIP"),
        (old_t5, r"T5 1\.0"),
        (lambda: {"decoder.conv_in.weight": torch.ones(2, 2)}, "not a T5 encoder"),
        (dict, "not a T5 encoder"),
    ],
    ids=["umt5", "umt5_bias", "clip", "open_clip", "t5_v1_0", "vae", "empty"],
)
def test_r10_a_wrong_encoder_is_refused_by_name(
    make: Callable[[], dict[str, Tensor]], name: str, tokenizer: PromptTokenizer
) -> None:
    with pytest.raises(UnknownArchitectureError, match=rf"{name}.*t5xxl_fp16"):
        TextEncoder.from_tensors(make(), tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, "umt5"),
        ({"model_type": "clip_text_model"}, "clip_text_model"),
        ({"feed_forward_proj": "relu"}, "relu"),
    ],
)
def test_r10_a_config_of_another_encoder_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=message):
        T5EncoderConfig.from_dict(tiny_text.t5_config(**change))


@pytest.mark.parametrize("name", ["d_model", "d_kv", "d_ff", "num_layers", "num_heads"])
@pytest.mark.parametrize("value", [0, -1, 10**9, 1.5, "16", True, None])
def test_r14_a_hostile_config_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=name):
        T5EncoderConfig.from_dict(tiny_text.t5_config(**{name: value}))


@pytest.mark.parametrize("value", [0, -1.0, 2.0, "x", True, float("nan")])
def test_r14_a_hostile_epsilon_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="layer_norm_epsilon"):
        T5EncoderConfig.from_dict(tiny_text.t5_config(layer_norm_epsilon=value))


def test_a_config_without_a_needed_key_names_it() -> None:
    config = tiny_text.t5_config()
    del config["d_ff"]

    with pytest.raises(InvalidInputError, match="d_ff"):
        T5EncoderConfig.from_dict(config)


def test_r11_missing_unknown_and_misshapen_weights_are_counted(tokenizer: PromptTokenizer) -> None:
    config = T5EncoderConfig.from_dict(tiny_text.t5_config())
    tensors = tiny_text.t5_tensors()
    del tensors[WO]

    with pytest.raises(WeightMismatchError, match=rf"1 of \d+ names are missing \({WO}"):
        TextEncoder.from_tensors(tensors, tokenizer, config=config)
    with pytest.raises(WeightMismatchError, match=r"1 are unknown \(extra"):
        TextEncoder.from_tensors(
            {**tiny_text.t5_tensors(), "extra": torch.ones(1)}, tokenizer, config=config
        )
    with pytest.raises(WeightMismatchError, match=r"1 shapes differ .*\(48, 32\) instead of"):
        TextEncoder.from_tensors(
            {**tiny_text.t5_tensors(), WO: torch.ones(48, 32)}, tokenizer, config=config
        )


def test_r12_integer_weights_are_refused(tokenizer: PromptTokenizer) -> None:
    tensors = {**tiny_text.t5_tensors(), WO: torch.ones(32, 48, dtype=torch.int8)}

    with pytest.raises(WeightMismatchError, match="whole numbers"):
        TextEncoder.from_tensors(tensors, tokenizer)


def test_a_single_file_without_a_tokenizer_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"t5xxl.safetensors.*spiece.model"):
        TextEncoder.from_file(tmp_path / "t5xxl.safetensors", read=tiny_text.read_safetensors)


def test_a_tokenizer_of_a_larger_model_is_refused(tokenizer: PromptTokenizer) -> None:
    small = tiny_text.t5_tensors(tiny_text.t5_config(vocab_size=40))

    with pytest.raises(IncompatibleInputsError, match="40"):
        TextEncoder.from_tensors(small, tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"\xff", "not UTF-8"), (b"[" * 99_999, "not JSON"), (b"[]", "list")],
)
def test_a_damaged_config_file_is_named(
    content: bytes | None, message: str, tmp_path: Path, tokenizer: PromptTokenizer
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(CorruptCheckpointError, match=rf"config\.json.*{message}"):
        TextEncoder.from_folder(tmp_path, read=tiny_text.read_safetensors, tokenizer=tokenizer)
