"""Features of the T5 encoder, compared with transformers' own class."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.text import PROMPTS
from torch import Tensor

from latte_core.errors import MissingDependencyError, NonFiniteError
from latte_core.text.config import T5EncoderConfig
from latte_core.text.t5 import TextEncoder, default_dtype
from latte_core.text.tokenizer import PromptTokenizer


def reference_features(folder: Path, tokens: Any) -> Tensor:
    """Features of transformers' own class, filled without our code."""
    from transformers import T5Config, T5EncoderModel

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = {"d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size"}
    module = T5EncoderModel(
        T5Config(feed_forward_proj="gated-gelu", **{name: config[name] for name in sorted(wanted)})
    )
    module.load_state_dict(tiny_text.read_safetensors(folder), strict=False)
    with torch.no_grad():
        return module.eval()(tokens.ids, attention_mask=tokens.mask.long())[0]


@pytest.mark.parity
def test_features_equal_transformers_own(encoder: TextEncoder, latte_folder: Path) -> None:
    features = encoder.encode(PROMPTS)
    tokens = encoder.tokenizer.encode(PROMPTS)

    expected = reference_features(latte_folder / "text_encoder", tokens)

    assert features.embeds.shape == (3, 120, tiny_text.WIDTH)
    assert features.embeds.dtype == torch.float32
    assert torch.equal(features.mask, tokens.mask)
    assert (features.embeds - expected).abs().max() <= 1e-5


def test_a_batch_equals_its_prompts_alone(encoder: TextEncoder) -> None:
    many = PROMPTS * 4
    together = encoder.encode(many).embeds

    alone = torch.cat([encoder.encode([text]).embeds for text in many])

    assert (together - alone).abs().max() <= 1e-5


def test_padding_does_not_change_real_tokens(encoder: TextEncoder) -> None:
    features = encoder.encode(["a red circle"])
    real = int(features.mask.sum())
    tokens = encoder.tokenizer.encode(["a red circle"], length=real)

    with torch.no_grad():
        short = encoder.module(input_ids=tokens.ids).last_hidden_state

    assert (features.embeds[:, :real] - short).abs().max() <= 1e-5


def test_float16_keeps_the_second_feed_forward_matrix_in_float32(
    tokenizer: PromptTokenizer, encoder: TextEncoder
) -> None:
    built = TextEncoder.from_tensors(tiny_text.t5_tensors(), tokenizer, dtype=torch.float16)

    kept = {name for name, value in built.module.named_parameters() if value.dtype != torch.float16}

    assert kept == {f"encoder.block.{index}.layer.1.DenseReluDense.wo.weight" for index in (0, 1)}
    features = built.encode(PROMPTS).embeds
    assert features.dtype == torch.float16
    assert (features.float() - encoder.encode(PROMPTS).embeds).abs().max() < 0.02


def test_bfloat16_is_bfloat16_throughout(tokenizer: PromptTokenizer) -> None:
    built = TextEncoder.from_tensors(tiny_text.t5_tensors(), tokenizer, dtype=torch.bfloat16)

    assert {value.dtype for value in built.module.parameters()} == {torch.bfloat16}
    assert built.encode(PROMPTS).embeds.dtype == torch.bfloat16


def test_r32_float16_with_extreme_activations_stays_finite(tokenizer: PromptTokenizer) -> None:
    tensors = tiny_text.t5_tensors()
    for name in tensors:
        if ".wi_1." in name or ".wo." in name:
            tensors[name] = tensors[name] * 300

    built = TextEncoder.from_tensors(tensors, tokenizer, dtype=torch.float16)

    assert torch.isfinite(built.encode(PROMPTS).embeds).all()


def test_r32_features_that_are_not_finite_name_dtype_and_remedy(
    tokenizer: PromptTokenizer,
) -> None:
    tensors = tiny_text.t5_tensors()
    tensors["encoder.final_layer_norm.weight"][3] = torch.inf

    built = TextEncoder.from_tensors(tensors, tokenizer, dtype=torch.float16)

    with pytest.raises(NonFiniteError, match=r"torch.float16.*bfloat16 or float32"):
        built.encode(["a"])


@pytest.mark.parametrize(
    ("stored", "on_accelerator"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float8_e4m3fn, torch.bfloat16),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_the_usual_dtype_is_the_stored_one_and_float32_on_the_cpu(
    stored: torch.dtype, on_accelerator: torch.dtype
) -> None:
    tensors = {name: value.to(stored) for name, value in tiny_text.t5_tensors().items()}

    assert default_dtype(tensors, "cuda") == on_accelerator
    assert default_dtype(tensors, "cpu") == torch.float32


def test_the_config_is_read_from_the_shapes() -> None:
    from_weights = T5EncoderConfig.from_tensors(tiny_text.t5_tensors())

    assert from_weights == T5EncoderConfig.from_dict(tiny_text.t5_config())


def test_the_full_size_encoder_is_recognised_on_the_meta_device() -> None:
    full = tiny_text.t5_config(
        d_model=4096, d_kv=64, d_ff=10240, num_heads=64, num_layers=24, vocab_size=32128
    )
    config = T5EncoderConfig.from_dict(full)
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        module = T5EncoderModel(T5Config(**config.to_dict()))

    state = module.state_dict()
    assert T5EncoderConfig.from_tensors(state) == config
    assert sum(value.numel() for value in module.parameters()) == 4_762_310_656


def test_r28_a_cut_prompt_is_told_once_in_the_log_and_in_the_result(
    encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="latte"):
        features = encoder.encode(["red " * 500, "a red circle"])

    assert [record.getMessage() for record in caplog.records] == list(features.notices)
    assert len(features.notices) == 1


def test_where_and_how_wide_the_encoder_is(encoder: TextEncoder) -> None:
    assert encoder.device == torch.device("cpu")
    assert encoder.dtype == torch.float32
    assert encoder.width == tiny_text.WIDTH
    assert encoder.to("cpu") is encoder


def test_missing_transformers_is_named_with_the_install_line(
    tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(MissingDependencyError, match="pip install transformers"):
        TextEncoder.from_tensors(tiny_text.t5_tensors(), tokenizer)


def test_encoding_leaves_the_global_random_state_alone(encoder: TextEncoder) -> None:
    before = torch.get_rng_state()
    encoder.encode(PROMPTS)

    assert torch.equal(torch.get_rng_state(), before)
