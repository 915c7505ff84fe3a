"""Unpacking fp8 weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_config, tiny_weights
from torch import Tensor

from latte_core.checkpoint import dequantize, load_transformer, write_safetensors
from latte_core.errors import UnknownArchitectureError

FP8 = torch.float8_e4m3fn


def scaled(weights: dict[str, Tensor], scale_name: str, *, per_row: bool) -> dict[str, Tensor]:
    """Pack every matrix as fp8 with a scale, as ComfyUI users have it."""
    packed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if value.dim() != 2 or not key.endswith(".weight"):
            packed[key] = value
            continue
        scale = value.abs().amax(dim=1) / 400 if per_row else value.abs().max() / 400
        packed[key] = (value / (scale[:, None] if per_row else scale)).to(FP8)
        packed[key.removesuffix("weight") + scale_name] = scale
        packed[key.removesuffix("weight") + "scale_input"] = torch.ones(1)
    return packed


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_scaled_fp8_comes_back_within_its_precision(scale_name: str, per_row: bool) -> None:
    weights = tiny_weights()
    packed = {**scaled(weights, scale_name, per_row=per_row), "scaled_fp8": torch.empty(0)}
    found = dequantize("w.safetensors", packed, torch.float32)
    assert set(found) == set(weights)
    for key, value in weights.items():
        # fp8 e4m3 keeps 4 bits: half a step is 1/16 of a value
        assert torch.allclose(found[key], value, rtol=1 / 15, atol=float(value.abs().max()) / 400)


def test_scaled_fp8_transformer_loads(tmp_path: Path) -> None:
    weights = tiny_weights()
    packed = {**scaled(weights, "weight_scale", per_row=False)}
    packed["proj_out.comfy_quant"] = torch.zeros(20, dtype=torch.uint8)
    path = tmp_path / "w.safetensors"
    write_safetensors(path, packed, {"config": json.dumps(tiny_config())})
    model = load_transformer(path)
    assert torch.allclose(model.proj_out.weight, weights["proj_out.weight"], rtol=0.1, atol=0.01)


def test_ordinary_weights_pass_unchanged() -> None:
    weights = tiny_weights()
    found = dequantize("w.safetensors", weights, torch.float16)
    assert all(found[key] is value for key, value in weights.items())


def test_other_packing_is_refused_by_name() -> None:
    packed = {
        "a.weight": torch.zeros(4, 2, dtype=torch.uint8),
        "a.weight_scale": torch.ones(4),
        "b.bias": torch.ones(2),
    }
    with pytest.raises(UnknownArchitectureError, match=r"a\.weight has type torch\.uint8"):
        dequantize("nvfp4.safetensors", packed, torch.float32)
