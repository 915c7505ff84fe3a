"""A LoRA that does nothing, or not what it says, is told in numbers or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from safetensors.torch import save_file
from torch import Tensor, nn

from latte_core.checkpoint import native_lora
from latte_core.checkpoint.lora.reader import merge_lora_file
from latte_core.errors import CorruptCheckpointError, IncompatibleInputsError
from latte_core.model.weights.fused_qkv import fuse_qkv
from latte_core.model.weights.merge import merge_lora

LAYERS = tuple(f"transformer_blocks.{block}.attn1.to_{kind}" for block in (0, 1) for kind in "qkv")
RANK = 4


def adapter(zeros: int = 0, size: float = 0.1, **alpha: float) -> dict[str, Tensor]:
    """Return six layers in PEFT's names, the first of them untrained."""
    draws = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(LAYERS):
        start = f"base_model.model.{layer}."
        found[f"{start}lora_A.weight"] = torch.randn(RANK, 16, generator=draws)
        up = torch.randn(16, RANK, generator=draws) * size
        found[f"{start}lora_B.weight"] = torch.zeros(16, RANK) if number < zeros else up
        found |= {f"{start}{name}": torch.tensor(value) for name, value in alpha.items()}
    return found


def merged(
    folder: Path, caplog: pytest.LogCaptureFixture, tensors: dict[str, Tensor], strength: float = 1
) -> tuple[int, str]:
    """Merge a file; return how many tensors of the model changed, and the log."""
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "look.safetensors")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="latte"):
        merge_lora_file(model, folder / "look.safetensors", strength)
    state = model.state_dict().items()
    changed = sum(not torch.equal(value, before[name]) for name, value in state)
    return changed, f"{caplog.records[-1].levelname} {caplog.messages[-1]}"


def test_layers_that_stay_as_they_are_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed, log = merged(tmp_path, caplog, adapter())
    assert changed == 6
    assert log.startswith("INFO look.safetensors: The LoRA changes 6 layers")
    changed, log = merged(tmp_path, caplog, adapter(zeros=2))
    assert changed == 4
    assert log.startswith("WARNING")
    assert "changes 4 of 6 layers" in log
    assert "other 2 are zero" in log


@pytest.mark.parametrize("tensors", [adapter(zeros=6), adapter(alpha=0.0), adapter(size=0.0)])
def test_a_lora_without_effect_is_said_to_have_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tensors: dict[str, Tensor]
) -> None:
    changed, log = merged(tmp_path, caplog, tensors)
    assert changed == 0
    assert log.startswith("WARNING look.safetensors: The LoRA has no effect: its numbers for all 6")


def test_numbers_that_rounding_swallows_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed, log = merged(tmp_path, caplog, adapter(size=1e-20))
    assert changed == 0
    assert log.startswith("WARNING")
    assert "6 of these layers did not change" in log
    changed, log = merged(tmp_path, caplog, adapter(), 0.0)
    assert changed == 0
    assert "At this strength nothing changes" in log


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor(1e308, dtype=torch.float64),
        torch.tensor(float("nan")),
        torch.tensor(float("inf")),
        torch.tensor(1e7),
        torch.tensor(-1e30),
        torch.tensor(True),
        torch.ones(2),
        torch.ones(0),
    ],
)
def test_an_alpha_that_is_no_strength_is_refused(alpha: Tensor) -> None:
    tensors = adapter()
    tensors[f"base_model.model.{LAYERS[2]}.alpha"] = alpha
    with pytest.raises(CorruptCheckpointError, match=rf"the alpha of layer {LAYERS[2]} is"):
        native_lora("w.safetensors", tensors)


@pytest.mark.parametrize("value", [1e308, float("nan"), float("inf")])
def test_merging_refuses_such_an_alpha_too(value: float) -> None:
    start = f"diffusion_model.{LAYERS[0]}."
    tensors = {
        f"{start}lora_A.weight": torch.ones(4, 16),
        f"{start}lora_B.weight": torch.ones(16, 4),
    }
    tensors[f"{start}alpha"] = torch.tensor(value, dtype=torch.float64)
    with pytest.raises(IncompatibleInputsError, match="no strength"):
        merge_lora(tiny_model(), tensors)


def test_weights_that_would_overflow_stay_as_they_were() -> None:
    model = tiny_model().half()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    native = native_lora("w.safetensors", adapter(alpha=4.0)).tensors
    first = merge_lora(model, native, 0.5)
    with pytest.raises(IncompatibleInputsError, match="6 of its 6 layers.*float16"):
        merge_lora(model, native, 1e6)
    first.remove()
    assert_same(model, before)


def assert_same(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def drop(tensors: dict[str, Tensor], key: str) -> None:
    del tensors[key]


def narrow(tensors: dict[str, Tensor], key: str) -> None:
    tensors[key] = tensors[key].flatten()


def shorten(tensors: dict[str, Tensor], key: str) -> None:
    tensors[key] = tensors[key][:3] if "lora_A" in key else tensors[key][:, :3]


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(drop, "the other is missing"), (narrow, "no matrices"), (shorten, "do not belong together")],
)
def test_half_a_layer_is_refused(
    part: str, damage: Callable[[dict[str, Tensor], str], None], words: str
) -> None:
    tensors = adapter()
    damage(tensors, f"base_model.model.{LAYERS[1]}.{part}")
    with pytest.raises(CorruptCheckpointError, match=words):
        native_lora("w.safetensors", tensors)


@pytest.mark.parametrize(
    "part", ["lora_B.bias", "lora_E", "lora_embedding_A", "lora_B.default.bias"]
)
def test_parts_that_nobody_applies_are_refused(part: str) -> None:
    tensors = {**adapter(), f"base_model.model.{LAYERS[0]}.{part}": torch.ones(16)}
    with pytest.raises(IncompatibleInputsError, match="not applied here"):
        native_lora("w.safetensors", tensors)


def test_a_layer_with_other_columns_than_the_models_is_refused() -> None:
    tensors = adapter()
    tensors[f"base_model.model.{LAYERS[0]}.lora_A.weight"] = torch.ones(RANK, 32)
    with pytest.raises(IncompatibleInputsError, match="32 columns in the LoRA and 16 in the model"):
        native_lora("w.safetensors", tensors, shapes=tiny_model().state_dict())


def extracted(model: nn.Module, goal: nn.Module) -> dict[str, Tensor]:
    """Return what ComfyUI's extraction writes of two models: matrices, and biases as they are."""
    found: dict[str, Tensor] = {}
    states = model.state_dict(), goal.state_dict()
    for layer in LAYERS:
        start = f"diffusion_model.{layer}."
        difference, bias = (states[1][f"{layer}.{k}"] - states[0][f"{layer}.{k}"] for k in KINDS)
        found[f"{start}lora_up.weight"] = difference
        found[f"{start}lora_down.weight"] = torch.eye(16)
        found[f"{start}diff_b"] = bias
    return found


KINDS = ("weight", "bias")


@pytest.mark.parametrize("is_fused", [False, True])
def test_an_extracted_lora_changes_biases_too_and_leaves_no_trace(is_fused: bool) -> None:
    model, goal = tiny_model(), tiny_model(seed=1)
    tensors = native_lora("w.safetensors", extracted(model, goal)).tensors
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if is_fused:
        fuse_qkv(model)
    patch = merge_lora(model, tensors)
    state, wanted = model.state_dict(), goal.state_dict()
    for layer in LAYERS:
        for kind in KINDS:
            torch.testing.assert_close(state[f"{layer}.{kind}"], wanted[f"{layer}.{kind}"])
    assert patch.num_layers == len(LAYERS)
    assert not patch.unchanged_layers
    patch.remove()
    assert_same(model, before)


def test_a_bias_of_another_size_is_refused() -> None:
    tensors = {f"diffusion_model.{LAYERS[0]}.diff_b": torch.ones(5)}
    with pytest.raises(IncompatibleInputsError, match=rf"does not fit {LAYERS[0]}.bias"):
        merge_lora(tiny_model(), tensors)
