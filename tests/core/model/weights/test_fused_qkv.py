"""Queries, keys and values in one product: the same model under the same names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_config, tiny_model
from torch import Tensor, nn

from latte_core.errors import InvalidInputError
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv, unfuse_qkv
from latte_core.model.weights.lora import LoraSettings, add_lora


def fused_model(seed: int = 0) -> LatteT2V:
    model = tiny_model(seed)
    fuse_qkv(model)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 4, 6, generator=generator)
    return latents, torch.tensor([40.0, 900.0]), torch.randn(2, 5, 24, generator=generator)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two state dicts have the same names and bits."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_fused_model_gives_the_same_outputs_with_a_third_of_the_layers() -> None:
    plain, fused = tiny_model(), fused_model()
    with torch.no_grad():
        expected, found = plain(*inputs()), fused(*inputs())
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    layers = [
        sum(isinstance(one, nn.Linear) for one in model.modules()) for model in (plain, fused)
    ]
    assert layers[0] - layers[1] == 4 * 2  # blocks with self-attention


def test_fused_model_saves_released_names_and_bits() -> None:
    assert same(fused_model().state_dict(), tiny_model().state_dict())
    nested = nn.ModuleDict({"one": fused_model()}).state_dict(prefix="all.")
    assert same(nested, nn.ModuleDict({"one": tiny_model()}).state_dict(prefix="all."))


@pytest.mark.parametrize("assign", [False, True])
def test_fused_model_loads_released_names(assign: bool) -> None:
    model, weights = fused_model(0), tiny_model(1).state_dict()
    model.load_state_dict(weights, assign=assign)
    assert same(model.state_dict(), weights)
    assert same(weights, tiny_model(1).state_dict())


@pytest.mark.parametrize("lost", ["to_k.weight", "to_v.bias"])
def test_fused_model_refuses_incomplete_weights(lost: str) -> None:
    weights = tiny_model().state_dict()
    del weights[f"transformer_blocks.0.attn1.{lost}"]
    with pytest.raises(RuntimeError, match=r"Missing key.*transformer_blocks\.0\.attn1\.to_qkv"):
        fused_model().load_state_dict(weights)


def test_unfused_model_has_every_bit_back() -> None:
    model = fused_model()
    unfuse_qkv(model)
    assert same(model.state_dict(), tiny_model().state_dict())
    assert list(dict(model.named_parameters())) != []
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in tiny_model().named_parameters()
    }
    with torch.no_grad():
        assert torch.equal(model(*inputs()), tiny_model()(*inputs()))


def test_fusing_twice_and_taking_apart_what_is_apart_change_nothing() -> None:
    model = fused_model()
    once = copy.deepcopy(model)
    fuse_qkv(model)
    assert same(model.state_dict(), once.state_dict())
    separate = tiny_model()
    unfuse_qkv(separate)
    assert same(separate.state_dict(), tiny_model().state_dict())


def test_fused_model_can_be_cast_and_frozen() -> None:
    model = tiny_model().requires_grad_(False).bfloat16()
    expected = model.state_dict()
    fuse_qkv(model)
    assert same(model.state_dict(), expected)
    assert not any(one.requires_grad for one in model.parameters())
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


def test_gradients_of_a_fused_model_are_those_of_the_three_layers() -> None:
    plain, fused = tiny_model(), fused_model()
    for model in (plain, fused):
        model(*inputs()).square().mean().backward()
    layer: Any = fused.transformer_blocks[1]
    other: Any = plain.transformer_blocks[1]
    parts = layer.attn1.to_qkv.separate(layer.attn1.to_qkv.weight.grad)
    for part, one in zip(
        parts, (other.attn1.to_q, other.attn1.to_k, other.attn1.to_v), strict=True
    ):
        scale = float(one.weight.grad.abs().max())
        assert float((part - one.weight.grad).abs().max()) <= 1e-4 * scale


def test_adapted_and_host_layers_are_refused_before_anything_changes() -> None:
    model = tiny_model()
    add_lora(model, LoraSettings(rank=1), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInputError, match="LoraLinear.*remove_lora"):
        fuse_qkv(model)

    class Operations(nn.Module):
        Conv2d = nn.Conv2d

        class Linear(nn.Linear):
            """A layer that casts its weights by itself."""

    hosted = LatteT2V.from_config(tiny_config(), operations=Operations)
    names = list(hosted.state_dict())
    with pytest.raises(InvalidInputError, match="transformer_blocks.0.attn1.to_q is a Linear"):
        fuse_qkv(hosted)
    assert list(hosted.state_dict()) == names
