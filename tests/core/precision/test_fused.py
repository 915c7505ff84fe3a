"""Queries, keys and values in one eight-bit product: the numbers of three, under their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from safetensors.torch import load_file
from torch import Tensor, nn

from latte_core.checkpoint.writing.writer import write_safetensors
from latte_core.errors import InvalidInputError
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv, self_attentions, unfuse_qkv
from latte_core.model.weights.lora import LoraSettings, add_lora
from latte_core.model.weights.merge import merge_lora
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.precision.layers import is_quantised
from latte_core.precision.linear import FusedQuantisedLinear, QuantisedLinear
from latte_core.precision.quantize import quantize

# int8 products are sums of whole numbers; those of fp8 are emulated in float32, where the order of
# a sum may depend on the number of rows
CASES = [("int8", 0.0), ("fp8", 1e-6)]
HEADS = 2  # of the tiny model
LAYER = "transformer_blocks.0.attn1.to_q"
LORA = {f"{LAYER}.lora_A.weight": torch.ones(1, 16), f"{LAYER}.lora_B.weight": torch.ones(16, 1)}


def separate_model(name: str, seed: int = 0) -> LatteT2V:
    model = tiny_model(seed)
    quantize(model, name)
    return model


def fused_model(name: str, seed: int = 0) -> LatteT2V:
    model = tiny_model(seed)
    fuse_qkv(model)
    quantize(model, name)
    return model


def fused_after(name: str, seed: int = 0) -> LatteT2V:
    model = separate_model(name, seed)
    fuse_qkv(model)
    return model


def tokens() -> Tensor:
    return torch.randn(3, 35, 16, generator=torch.Generator().manual_seed(5))


def run(model: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 8, 12, generator=draws)
    with torch.no_grad():
        return model(latents, torch.tensor([500.0, 20.0]), torch.randn(2, 5, 24, generator=draws))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two state dicts have the same names, types and bits."""
    return first.keys() == second.keys() and all(
        one.dtype == second[name].dtype and torch.equal(bits(one), bits(second[name]))
        for name, one in first.items()
    )


@pytest.mark.parametrize(("name", "bound"), CASES)
def test_fused_products_are_those_of_three_quantised_layers(name: str, bound: float) -> None:
    plain = self_attentions(separate_model(name))
    for place, attention in self_attentions(fused_model(name)).items():
        assert type(attention.to_qkv) is FusedQuantisedLinear
        with torch.no_grad():
            found = [*attention.project(tokens(), HEADS), attention.project_values(tokens())]
            other = plain[place]
            expected = [*other.project(tokens(), HEADS), other.project_values(tokens())]
        for one, two in zip(found, expected, strict=True):
            assert one.shape == two.shape
            assert float((one - two).abs().max()) <= bound * float(two.abs().max())


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.02), ("fp8", 0.08)])
def test_a_fused_quantised_model_is_as_close_as_a_quantised_one(name: str, bound: float) -> None:
    exact, found = run(tiny_model()), run(fused_model(name))
    error = float((found - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt())
    assert 0 < error < bound


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_quantising_counts_the_same_bytes_in_fewer_layers(name: str) -> None:
    fused = tiny_model()
    fuse_qkv(fused)
    found, expected = quantize(fused, name), quantize(tiny_model(), name)
    assert expected.num_layers - found.num_layers == 4 * 2  # blocks with self-attention
    assert found.bytes_before == expected.bytes_before
    assert found.bytes_after == expected.bytes_after


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_a_file_has_the_released_names_and_is_read_by_either_model(
    name: str, tmp_path: Path
) -> None:
    plain, fused = separate_model(name), fused_model(name)
    files = {}
    for kind, model in {"plain": plain, "fused": fused}.items():
        write_safetensors(tmp_path / kind, model.state_dict())
        files[kind] = load_file(tmp_path / kind)
    assert same(files["fused"], files["plain"])
    for make in (fused_model, separate_model):
        other = make(name, seed=1)
        assert not same(other.state_dict(), files["fused"])
        other.load_state_dict(files["fused"])
        assert same(other.state_dict(), files["fused"])
        assert torch.equal(run(other), run(fused if make is fused_model else plain))


@pytest.mark.parametrize("lost", ["to_k.values", "to_q.scales", "to_v.bias"])
def test_incomplete_weights_are_refused(lost: str) -> None:
    weights = separate_model("int8").state_dict()
    del weights[f"transformer_blocks.0.attn1.{lost}"]
    with pytest.raises(RuntimeError, match=r"Missing key.*transformer_blocks\.0\.attn1\.to_qkv"):
        fused_model("int8").load_state_dict(weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_fusing_after_quantising_is_fusing_before(name: str, dtype: torch.dtype) -> None:
    model, after = tiny_model().to(dtype).requires_grad_(False), tiny_model().to(dtype)
    fuse_qkv(model)
    quantize(model, name)
    quantize(after.requires_grad_(False), name)
    fuse_qkv(after)
    assert all(
        type(one.to_qkv) is FusedQuantisedLinear and not one.to_qkv.training
        for one in self_attentions(after).values()
    )
    for own, other in (
        (after.named_parameters(), model.named_parameters()),
        (after.named_buffers(), model.named_buffers()),
    ):
        found, expected = dict(own), dict(other)
        assert same(found, expected)
        assert [one.requires_grad for one in found.values()] == [False] * len(expected)


def test_layers_that_are_stored_differently_are_not_fused() -> None:
    model, other = separate_model("int8"), tiny_model()
    layer = "temporal_transformer_blocks.1.attn1.to_k"
    model.set_submodule(layer, other.get_submodule(layer))
    names = list(model.state_dict())
    with pytest.raises(
        InvalidInputError, match=r"blocks\.1\.attn1 cannot.*int8, unquantised, int8"
    ):
        fuse_qkv(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("make", [fused_model, fused_after])
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_taking_apart_gives_three_quantised_layers_bit_for_bit(
    name: str, make: Callable[[str], LatteT2V]
) -> None:
    plain, model = separate_model(name), make(name)
    unfuse_qkv(model)
    layers = [one for one in model.modules() if isinstance(one, QuantisedLinear)]
    assert len(layers) == 2 * (10 + 6)  # of two pairs of blocks
    assert not any(isinstance(one, FusedQuantisedLinear) or one.training for one in layers)
    assert same(model.state_dict(), plain.state_dict())
    assert torch.equal(run(model), run(plain))


def test_a_cast_leaves_the_stored_numbers_alone() -> None:
    model = fused_model("fp8")
    before = {name: one.clone() for name, one in model.named_buffers()}
    model.to(torch.bfloat16)
    assert same(dict(model.named_buffers()), before)
    attention = self_attentions(model)["transformer_blocks.0.attn1"]
    assert attention.project_values(tokens().bfloat16()).dtype == torch.bfloat16


def test_what_cannot_follow_is_refused_with_the_order_that_works() -> None:
    with pytest.raises(InvalidInputError, match="merge the LoRA, then quantise"):
        merge_lora(fused_model("int8"), LORA)
    with pytest.raises(InvalidInputError, match="stored as int8 already"):
        quantize(fused_model("int8"), "fp8")
    adapted: Any = fused_model("int8")
    with pytest.raises(InvalidInputError, match="nothing to train"):
        add_lora(adapted, LoraSettings(rank=1), generator=torch.Generator().manual_seed(0))
    assert is_quantised(adapted)


def test_a_pipeline_takes_a_precision_after_it_was_fused(tmp_path: Path) -> None:
    folder = write_tiny_latte(tmp_path / "tiny")
    exact = Pipeline.from_pretrained(folder, device="cpu")
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    transformer: Any = pipeline.parts.transformer
    fuse_qkv(transformer)
    pipeline.set_precision("int8")
    found = pipeline(PROMPT, **SMALL, output="latents").latents
    expected = exact(PROMPT, **SMALL, output="latents").latents
    assert 0 < float((found - expected).abs().max()) < 0.2 * float(expected.abs().max())
