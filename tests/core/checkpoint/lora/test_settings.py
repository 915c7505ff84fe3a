"""PEFT's settings count for their own file alone, and mean what PEFT means by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint import native_lora
from latte_core.checkpoint.conversion.convert import convert
from latte_core.checkpoint.lora.layouts import find_layer, known_layers, spellings, split_name
from latte_core.checkpoint.lora.reader import read_lora, stated_settings
from latte_core.errors import CheckpointError, CorruptCheckpointError, IncompatibleInputsError

QUERY = "transformer_blocks.0.attn1.to_q"
OUT = "temporal_transformer_blocks.1.attn1.to_out.0"
LAYERS = (QUERY, OUT)
RANK = 4


def adapter(start: str = "base_model.model.") -> dict[str, Tensor]:
    """Return the matrices of two layers as a trainer names them."""
    draws = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for layer in LAYERS:
        found[f"{start}{layer}.lora_A.weight"] = torch.randn(RANK, 16, generator=draws)
        found[f"{start}{layer}.lora_B.weight"] = torch.randn(16, RANK, generator=draws)
    return found


def alphas(start: str = "base_model.model.", **settings: Any) -> list[float | None]:
    """Return the alpha of both layers; None where none is stated."""
    found = native_lora("w.safetensors", adapter(start), settings=settings).tensors
    values = [found.get(f"diffusion_model.{layer}.alpha") for layer in LAYERS]
    return [None if value is None else float(value) for value in values]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"to_q": 2}, [2, 8]),
        ({"attn1.to_out.0": 3, "to_q": 2}, [2, 3]),
        ({r"transformer_blocks\.\d+\.attn1\.to_q": 5}, [5, 8]),
        ({r".*attn1\.to_(q|out\.0)": 6}, [6, 6]),
        ({r"^transformer_blocks\.0\.attn1\.to_q": 7}, [7, 8]),
        ({"transformer_blocks.1.attn1.to_out.0": 9}, [8, 8]),  # a name ends at a dot
        ({"to_.*": 1, "to_q": 2}, [1, 1]),  # the first that matches counts
        ({"o_q": 2}, [8, 8]),
        ({}, [8, 8]),
    ],
)
def test_alpha_patterns_are_regular_expressions_as_in_peft(
    patterns: dict[str, float], expected: list[float]
) -> None:
    assert alphas(lora_alpha=8, alpha_pattern=patterns) == expected


def test_a_pattern_may_name_a_layer_as_peft_saw_it() -> None:
    start = "base_model.model.transformer."
    pattern = {rf"^transformer\.{QUERY}": 5}
    assert alphas(start, lora_alpha=8, alpha_pattern=pattern) == [5, 8]


def test_ranks_that_are_stated_must_be_those_of_the_file() -> None:
    assert alphas(lora_alpha=8, r=2, rank_pattern={"to_q": 4, r"to_out\..*": 4}) == [8, 8]
    with pytest.raises(CorruptCheckpointError, match="rank 2 .* its matrices have rank 4"):
        alphas(lora_alpha=8, r=2, rank_pattern={"to_q": 4})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 1e308}, r"lora_alpha is 1e\+308"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_alpha": [4]}, r"lora_alpha is \[4\]"),
        ({"r": 0}, "r is 0"),
        ({"r": 4.0}, "r is 4.0"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"alpha_pattern": 5}, "alpha_pattern is 5"),
        ({"alpha_pattern": {"to_q": None}}, r"alpha_pattern\[to_q\] is None"),
        ({"alpha_pattern": {"to_q": float("inf")}}, r"alpha_pattern\[to_q\] is inf"),
        ({"rank_pattern": {"to_q": -1}}, r"rank_pattern\[to_q\] is -1"),
        ({"alpha_pattern": {"(": 1}}, "must be a regular expression"),
        ({"alpha_pattern": {"(.*)+x": 1}}, "so that matching it ends"),
        ({"alpha_pattern": {".*a.*b.*c.*d.*e": 1}}, "so that matching it ends"),
        ({"rank_pattern": {"x" * 301: 1}}, "so that matching it ends"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(CorruptCheckpointError, match=words):
        alphas(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"peft_type": "ADALORA"}, {"peft_type": "VERA"}, {"init_lora_weights": "pissa_niter_4"}],
)
def test_adapters_that_mean_something_else_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleInputsError, match="by its settings"):
        alphas(lora_alpha=8, **settings)


def test_alpha_of_a_loha_is_the_one_of_its_kind() -> None:
    start = f"base_model.model.{QUERY}."
    tensors = {f"{start}hada_w1_a": torch.ones(16, 4), f"{start}hada_w1_b": torch.ones(4, 16)}
    settings = {"peft_type": "LOHA", "alpha": 2, "lora_alpha": 9}
    found = native_lora("w.safetensors", tensors, settings=settings)
    assert found.tensors[f"diffusion_model.{QUERY}.alpha"] == 2


def write_folder(folder: Path, **settings: Any) -> None:
    """Write three LoRAs into one folder, with the settings of one of them."""
    save_file(adapter(), folder / "adapter_model.safetensors")
    save_file(adapter("transformer."), folder / "other.safetensors")
    held = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "unet.r": RANK})}
    save_file(adapter("transformer."), folder / "diffusers.safetensors", held)
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def alphas_in(path: Path) -> set[float]:
    return {float(value) for key, value in read_lora(path).tensors.items() if "alpha" in key}


def test_settings_of_a_neighbour_are_not_applied(tmp_path: Path) -> None:
    write_folder(tmp_path, lora_alpha=64, r=RANK)
    assert alphas_in(tmp_path / "adapter_model.safetensors") == {64}
    assert alphas_in(tmp_path) == {64}
    assert alphas_in(tmp_path / "other.safetensors") == set()
    assert alphas_in(tmp_path / "diffusers.safetensors") == {2}
    assert stated_settings(tmp_path / "other.safetensors") == {}
    assert stated_settings(tmp_path / "diffusers.safetensors") == {"lora_alpha": 2, "r": RANK}
    (tmp_path / "adapter_config.json").write_text("{")
    assert alphas_in(tmp_path / "other.safetensors") == set()
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        read_lora(tmp_path)


def test_a_converted_lora_keeps_its_strength_and_no_neighbours(tmp_path: Path) -> None:
    write_folder(tmp_path, lora_alpha=64, r=RANK)
    for name, expected in (("adapter_model", {64.0}), ("other", set[float]()), ("diffusers", {2})):
        target = tmp_path / f"{name}_out.safetensors"
        convert(tmp_path / f"{name}.safetensors", target)
        assert alphas_in(target) == expected


def test_the_table_of_names_and_the_reader_of_names_agree() -> None:
    layers = known_layers((), {f"{name}.weight": one for name, one in weights()})
    by_underscore = {layer.replace(".", "_"): layer for layer in layers}
    assert len(layers) == 39
    for layer in layers:
        for name in spellings(layer):
            found, part = split_name(f"{name}.lora_A.weight")
            assert (find_layer(found, layers, by_underscore), part) == (layer, "lora_A.weight")


def weights() -> list[tuple[str, Tensor]]:
    """Return the weights of a tiny model by the names of their layers."""
    state = tiny_model().state_dict().items()
    return [(name.removesuffix(".weight"), one) for name, one in state if name.endswith(".weight")]
