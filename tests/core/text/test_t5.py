"""The T5 encoder from every layout people have on disk."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support import tiny_text
from safetensors.torch import save_file
from torch import Tensor

from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    MissingDependencyError,
    NonFiniteError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from latte_core.text.config import T5EncoderConfig
from latte_core.text.t5 import TextEncoder, default_dtype
from latte_core.text.tokenizer import PromptTokenizer

PROMPTS = ["a red circle moving left", "", "yellow and black tropical fish dart through the sea."]
WO = "encoder.block.0.layer.1.DenseReluDense.wo.weight"


@pytest.fixture(scope="module")
def tokenizer(latte_folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(latte_folder / "tokenizer")


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


def scaled_fp8(tensors: Mapping[str, Tensor], *, new: bool) -> dict[str, Tensor]:
    """Return the weights as scaled fp8, in the older or the newer layout."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or "shared" in name or "bias" in name:
            result[name] = tensor.half()
            continue
        scale = tensor.abs().max() / 448
        base = name.removesuffix(".weight")
        result[name] = (tensor / scale).to(torch.float8_e4m3fn)
        result[f"{base}.weight_scale" if new else f"{base}.scale_weight"] = scale
        if new:
            text = json.dumps({"format": "float8_e4m3fn"}).encode()
            result[f"{base}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
        else:
            result[f"{base}.scale_input"] = torch.ones(1)
    if not new:
        result["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return result


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


@pytest.mark.parametrize("new", [False, True], ids=["scale_weight", "weight_scale"])
def test_scaled_fp8_equals_its_own_product(new: bool, tokenizer: PromptTokenizer) -> None:
    stored = scaled_fp8(tiny_text.t5_tensors(), new=new)
    scale = "weight_scale" if new else "scale_weight"
    name = WO.removesuffix("weight")

    built = TextEncoder.from_tensors(stored, tokenizer)

    expected = stored[WO].float() * stored[f"{name}{scale}"]
    assert torch.equal(built.module.state_dict()[WO], expected)
    assert built.module.state_dict()["shared.weight"].dtype == torch.float32


@pytest.mark.parametrize("new", [False, True], ids=["scale_weight", "weight_scale"])
def test_scaled_fp8_features_are_close_to_the_full_ones(
    new: bool, encoder: TextEncoder, tokenizer: PromptTokenizer
) -> None:
    built = TextEncoder.from_tensors(scaled_fp8(tiny_text.t5_tensors(), new=new), tokenizer)

    difference = built.encode(PROMPTS).embeds - encoder.encode(PROMPTS).embeds

    # fp8 keeps 3 bits of the mantissa: 6 % of each weight at most, far less in the sum
    assert difference.pow(2).mean().sqrt() < 0.15


def test_scaled_fp8_takes_one_scale_for_each_row(tokenizer: PromptTokenizer) -> None:
    stored = scaled_fp8(tiny_text.t5_tensors(), new=True)
    scale = WO.removesuffix("weight") + "weight_scale"
    stored[scale] = torch.linspace(0.5, 1.5, len(stored[WO])) / 448

    built = TextEncoder.from_tensors(stored, tokenizer)

    expected = stored[WO].float() * stored[scale][:, None]
    assert torch.equal(built.module.state_dict()[WO], expected)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_plain_small_dtypes_are_cast(stored: torch.dtype, tokenizer: PromptTokenizer) -> None:
    tensors = {name: value.to(stored) for name, value in tiny_text.t5_tensors().items()}

    built = TextEncoder.from_tensors(tensors, tokenizer)

    assert built.dtype == torch.float32
    assert torch.equal(built.module.state_dict()[WO], tensors[WO].float())


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


def test_other_quantisations_are_refused_by_name(tokenizer: PromptTokenizer) -> None:
    stored = scaled_fp8(tiny_text.t5_tensors(), new=True)
    text = json.dumps({"format": "nvfp4"}).encode()
    stored[WO.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)

    with pytest.raises(UnknownArchitectureError, match="nvfp4"):
        TextEncoder.from_tensors(stored, tokenizer)


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]"])
def test_a_damaged_quantisation_mark_is_refused(content: bytes, tokenizer: PromptTokenizer) -> None:
    stored = scaled_fp8(tiny_text.t5_tensors(), new=True)
    mark = torch.tensor(list(content), dtype=torch.uint8)
    stored[WO.removesuffix("weight") + "comfy_quant"] = mark

    with pytest.raises((CorruptCheckpointError, UnknownArchitectureError), match="comfy_quant"):
        TextEncoder.from_tensors(stored, tokenizer)


def test_a_scale_that_does_not_fit_is_refused(tokenizer: PromptTokenizer) -> None:
    stored = scaled_fp8(tiny_text.t5_tensors(), new=True)
    base = WO.removesuffix("weight")

    with pytest.raises(CorruptCheckpointError, match="32 rows but 5 scales"):
        TextEncoder.from_tensors({**stored, f"{base}weight_scale": torch.ones(5)}, tokenizer)
    with pytest.raises(CorruptCheckpointError, match="not the weight itself"):
        TextEncoder.from_tensors({**stored, "gone.weight_scale": torch.ones(1)}, tokenizer)
    with pytest.raises(
        UnknownArchitectureError, match="has a scale and is stored as torch.float16"
    ):
        TextEncoder.from_tensors({**stored, WO: stored[WO].half()}, tokenizer)


def test_a_single_file_without_a_tokenizer_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"t5xxl.safetensors.*spiece.model"):
        TextEncoder.from_file(tmp_path / "t5xxl.safetensors", read=tiny_text.read_safetensors)


def test_a_tokenizer_of_a_larger_model_is_refused(tokenizer: PromptTokenizer) -> None:
    small = tiny_text.t5_tensors(tiny_text.t5_config(vocab_size=40))

    with pytest.raises(IncompatibleInputsError, match="40"):
        TextEncoder.from_tensors(small, tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"\xff", "not JSON"), (b"[" * 99_999, "not JSON"), (b"[]", "list")],
)
def test_a_damaged_config_file_is_named(
    content: bytes | None, message: str, tmp_path: Path, tokenizer: PromptTokenizer
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(CorruptCheckpointError, match=rf"config\.json.*{message}"):
        TextEncoder.from_folder(tmp_path, read=tiny_text.read_safetensors, tokenizer=tokenizer)


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
