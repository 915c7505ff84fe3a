"""LoRA files of every trainer become native ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_weights
from torch import Tensor

from latte_core.checkpoint import native_lora
from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    UnknownArchitectureError,
)

SPATIAL = "transformer_blocks.0.attn1.to_q"
TEMPORAL = "temporal_transformer_blocks.1.attn1.to_out.0"
RANK = 4


def pair(names: tuple[str, str], width: int = 16) -> dict[str, Tensor]:
    """Return the two matrices of one layer under the given names."""
    down, up = names
    return {down: torch.randn(RANK, width), up: torch.randn(width, RANK)}


def layers(pattern_down: str, pattern_up: str, separator: str = ".") -> dict[str, Tensor]:
    """Return both layers in one trainer's spelling."""
    found: dict[str, Tensor] = {}
    for layer in (SPATIAL, TEMPORAL):
        name = layer.replace(".", separator)
        found.update(pair((pattern_down.format(name), pattern_up.format(name))))
    return found


FORMS: dict[str, tuple[dict[str, Tensor], tuple[str, str]]] = {
    "diffusers": (
        layers("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "peft": (
        layers("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "peft with adapter name": (
        layers(
            "base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"
        ),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "peft inside diffusers": (
        layers(
            "base_model.model.transformer.{}.lora_A.weight",
            "base_model.model.transformer.{}.lora_B.weight",
        ),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "native": (
        layers("diffusion_model.{}.lora_up.weight", "diffusion_model.{}.lora_down.weight"),
        ("lora_up.weight", "lora_down.weight"),
    ),
    "bare": (
        layers("{}.lora.up.weight", "{}.lora.down.weight"),
        ("lora.up.weight", "lora.down.weight"),
    ),
    "PixArt's trainer": (
        layers("unet.base_model.model.{}.lora_A.weight", "unet.base_model.model.{}.lora_B.weight"),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "diffusers of a UNet": (
        layers("unet.{}.lora.up.weight", "unet.{}.lora.down.weight"),
        ("lora.up.weight", "lora.down.weight"),
    ),
    "matrices as parameters": (
        layers("transformer.{}.lora_A", "transformer.{}.lora_B"),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "linear layers": (
        layers("unet.{}.lora_linear_layer.up.weight", "unet.{}.lora_linear_layer.down.weight"),
        ("lora.up.weight", "lora.down.weight"),
    ),
    "compiled and wrapped": (
        layers("module._orig_mod.{}.lora_A.weight", "pipe.dit._orig_mod.{}.lora_B.weight"),
        ("lora_A.weight", "lora_B.weight"),
    ),
    "lycoris": (
        layers("lycoris_{}.lora_down.weight", "lycoris_{}.lora_up.weight", "_"),
        ("lora_down.weight", "lora_up.weight"),
    ),
    "kohya": (
        layers("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", "_"),
        ("lora_down.weight", "lora_up.weight"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_becomes_native_with_nothing_left_over(form: str) -> None:
    tensors, parts = FORMS[form]
    result = native_lora("style.safetensors", tensors)
    wanted = {f"diffusion_model.{layer}.{p}" for layer in (SPATIAL, TEMPORAL) for p in parts}
    assert set(result.tensors) == wanted
    assert set(result.matched) == {SPATIAL, TEMPORAL}
    assert result.unmatched == ()
    assert not result.is_spatial_only
    values = [id(value) for value in tensors.values()]
    assert [id(value) for value in result.tensors.values()] == values


def test_spatial_only_lora_of_an_image_model_is_accepted_and_said_so() -> None:
    tensors = pair((f"transformer.{SPATIAL}.lora_A.weight", f"transformer.{SPATIAL}.lora_B.weight"))
    result = native_lora("pixart.safetensors", tensors)
    assert result.is_spatial_only
    assert "1 layers of Latte (spatial layers only)" in result.sentence


def test_unmatched_names_are_listed() -> None:
    stray = {"text_encoder.layer.lora_A.weight": torch.ones(1), "stray": torch.ones(1)}
    tensors = {**FORMS["peft"][0], **stray}
    result = native_lora("mixed.safetensors", tensors)
    assert result.unmatched == tuple(stray)
    assert "2 names were not used: text_encoder.layer.lora_A.weight, stray" in result.sentence


def test_lora_of_another_model_is_an_error() -> None:
    tensors = {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(1)}
    with pytest.raises(UnknownArchitectureError, match="flux.safetensors changes no layer"):
        native_lora("flux.safetensors", tensors)


def test_the_same_layer_under_two_names_is_an_error() -> None:
    name = f"{SPATIAL}.lora_A.weight"
    tensors = {f"transformer.{name}": torch.ones(1), f"diffusion_model.{name}": torch.ones(1)}
    with pytest.raises(CorruptCheckpointError, match="two names"):
        native_lora("twice.safetensors", tensors)


def alpha_of(**settings: Any) -> Tensor | None:
    result = native_lora("w.safetensors", FORMS["peft"][0], settings=settings or None)
    return result.tensors.get(f"diffusion_model.{TEMPORAL}.alpha")


def test_strength_comes_from_pefts_settings() -> None:
    assert alpha_of() is None
    assert alpha_of(lora_alpha=8) == 8
    assert alpha_of(lora_alpha=8, use_rslora=True) == 16  # 8 / sqrt(4) = 16 / 4
    assert alpha_of(lora_alpha=8, alpha_pattern={"attn1.to_out.0": 2, "to_q": 3}) == 2


def test_strength_comes_from_diffusers_metadata() -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2.5})}
    result = native_lora("w.safetensors", FORMS["diffusers"][0], metadata)
    assert result.tensors[f"diffusion_model.{SPATIAL}.alpha"] == 2.5


@pytest.mark.parametrize("text", ["[1]", "5", "{"])
def test_settings_that_are_no_table_are_an_error(text: str) -> None:
    with pytest.raises(CorruptCheckpointError, match="lora_adapter_metadata"):
        native_lora("w.safetensors", FORMS["peft"][0], {"lora_adapter_metadata": text})


def test_strength_in_the_file_wins() -> None:
    own = {f"lora_unet_{SPATIAL.replace('.', '_')}.alpha": torch.tensor(1.0)}
    result = native_lora("w.safetensors", {**FORMS["kohya"][0], **own}, settings={"lora_alpha": 9})
    assert result.tensors[f"diffusion_model.{SPATIAL}.alpha"] == 1
    assert result.tensors[f"diffusion_model.{TEMPORAL}.alpha"] == 9


@pytest.mark.parametrize("suffix", ["", ".default", ".weight", ".default.weight"])
def test_dora_sizes_become_a_column(suffix: str) -> None:
    name = f"transformer.{SPATIAL}.lora_magnitude_vector{suffix}"
    tensors = {**FORMS["diffusers"][0], name: torch.ones(16)}
    result = native_lora("dora.safetensors", tensors)
    assert result.tensors[f"diffusion_model.{SPATIAL}.dora_scale"].shape == (16, 1)


def test_lora_for_another_width_is_refused_when_the_model_is_known() -> None:
    shapes = tiny_weights()
    native_lora("fits.safetensors", FORMS["peft"][0], shapes=shapes)
    wide = pair((f"{SPATIAL}.lora_A.weight", f"{SPATIAL}.lora_B.weight"), width=32)
    with pytest.raises(IncompatibleInputsError, match="32 rows in the LoRA and 16 in the model"):
        native_lora("wide.safetensors", wide, shapes=shapes)
