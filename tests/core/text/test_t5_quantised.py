"""The T5 encoder from fp8 and other small types."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.text import PROMPTS, WO
from torch import Tensor

from latte_core.errors import CorruptCheckpointError, UnknownArchitectureError
from latte_core.text.t5 import TextEncoder
from latte_core.text.tokenizer import PromptTokenizer


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
