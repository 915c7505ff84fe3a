"""Models whose wide layers are stored in eight bits."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.weights.lora import LoraSettings, add_lora
from latte_core.model.weights.merge import merge_lora
from latte_core.precision import matmul
from latte_core.precision.formats import FP8, INT8
from latte_core.precision.layers import is_quantised
from latte_core.precision.linear import QuantisedLinear
from latte_core.precision.matmul import UNPACKING
from latte_core.precision.quantize import quantize

LAYER = "transformer_blocks.0.attn1.to_q"


def run(model: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 8, 12, generator=draws)
    text = torch.randn(2, 5, 24, generator=draws)
    with torch.no_grad():
        return model(latents, torch.tensor([500.0, 20.0]), text)


def close(found: Tensor, expected: Tensor) -> float:
    """Root of the mean square error over that of the expected numbers."""
    return float((found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt())


def lora() -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return {
        f"diffusion_model.{LAYER}.lora_A.weight": torch.randn(2, 16, generator=draws),
        f"diffusion_model.{LAYER}.lora_B.weight": torch.randn(16, 2, generator=draws),
    }


# e4m3 errs by up to 1/16 of a value and 1/40 on average, twice per product; int8 by 1/254 of the
# largest
@pytest.mark.parametrize(("name", "bound"), [("fp8", 0.08), ("int8", 0.02)])
def test_a_quantised_model_is_close_and_the_same_on_each_run(name: str, bound: float) -> None:
    model = tiny_model()
    expected = run(model)
    done = quantize(model, name)
    found = run(model)
    assert done.num_layers == 2 * (10 + 6)  # of two pairs of blocks
    assert 0.25 <= done.bytes_after / done.bytes_before < 0.45
    assert 0 < close(found, expected) < bound
    assert torch.equal(run(model), found)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_class_models_are_quantised_in_every_arrangement(variant: int) -> None:
    model = tiny_latte(variant=variant)
    draws = torch.Generator().manual_seed(0)
    frames = model.config.num_frames
    latents = torch.randn(2, 4, frames, 8, 8, generator=draws)
    given = (latents, torch.tensor([500.0, 500.0]), torch.tensor([0, 1]))
    with torch.no_grad():
        expected = model(*given)
        quantize(model, "int8")
        found = model(*given)
    kept = {name for name, one in model.named_modules() if type(one) is nn.Linear}
    assert not any(".attn" in name or ".mlp.fc" in name for name in kept)
    assert any("adaLN" in name for name in kept) and any(name.startswith("t_emb") for name in kept)
    assert 0 < close(found, expected) < 0.02


def test_what_small_errors_would_spread_from_keeps_its_type() -> None:
    model = tiny_model()
    quantize(model, "fp8")
    for name, one in model.named_modules():
        is_wide = ".attn" in name or ".ff.net" in name
        assert not isinstance(one, QuantisedLinear) or is_wide, name
        assert type(one) is not nn.Linear or not is_wide, name


@pytest.mark.parametrize("kind", [FP8, INT8], ids=lambda kind: kind.name)
def test_a_layer_keeps_its_bits_when_the_model_changes_its_type(kind: Any) -> None:
    layer = QuantisedLinear(nn.Linear(32, 48), kind)
    values, scales = layer.values.clone(), layer.scales.clone()
    layer.to(torch.float16)
    assert (layer.values.dtype, layer.scales.dtype) == (kind.dtype, torch.float32)
    assert torch.equal(layer.values.view(torch.uint8), values.view(torch.uint8))
    assert torch.equal(layer.scales, scales)
    assert layer(torch.ones(2, 3, 32, dtype=torch.float16)).dtype == torch.float16
    layer.to("meta")
    assert layer.values.is_meta and layer.values.dtype == kind.dtype


def test_a_layer_without_bias_or_batch_works() -> None:
    plain = nn.Linear(32, 16, bias=False)
    layer = QuantisedLinear(plain, INT8)
    hidden = torch.linspace(-1, 1, 32)[None]
    assert torch.allclose(layer(hidden), plain(hidden), atol=0.02)
    assert layer.bias is None


def test_unpacking_gives_the_product_with_the_stored_weight() -> None:
    plain = nn.Linear(32, 16)
    layer = QuantisedLinear(plain, FP8, backend=UNPACKING)
    hidden = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    expected = hidden @ (layer.values.float() * layer.scales).t() + plain.bias
    assert torch.allclose(layer(hidden), expected, atol=1e-6)


def test_emulation_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "has_int8_product", lambda _: True)
    model = tiny_model()
    with caplog.at_level(logging.WARNING, logger="latte"):
        assert not quantize(model, "fp8").is_native
        run(model)
    assert len(caplog.records) == 1
    assert "saves memory here, but no time" in caplog.text and "8.9" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="latte"):
        assert quantize(tiny_model(), "int8").is_native
    assert not caplog.records


def test_a_merged_lora_is_part_of_the_quantised_weights() -> None:
    model, plain = tiny_model(), tiny_model()
    patch = merge_lora(model, lora(), 0.5)
    merged: Tensor = model.get_submodule(LAYER).weight.detach().clone()
    quantize(model, "int8")
    quantize(plain, "int8")
    layer, other = model.get_submodule(LAYER), plain.get_submodule(LAYER)
    assert isinstance(layer, QuantisedLinear) and isinstance(other, QuantisedLinear)
    assert close(layer.unpacked(torch.float32), merged) < 0.01
    assert close(other.unpacked(torch.float32), merged) > 0.1
    with pytest.raises(InvalidInputError, match="quantised with it"):
        patch.remove()


def test_merging_into_a_quantised_model_is_refused() -> None:
    model = tiny_model()
    quantize(model, "fp8")
    before = run(model)
    with pytest.raises(InvalidInputError, match="merge the LoRA, then quantise"):
        merge_lora(model, lora())
    assert torch.equal(run(model), before)


def prepare_adapters(model: nn.Module) -> None:
    add_lora(model, LoraSettings(rank=2), generator=torch.Generator())  # type: ignore[arg-type]


def prepare_quantised(model: nn.Module) -> None:
    quantize(model, "int8")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (prepare_adapters, "remove_lora"),
        (prepare_quantised, "stored as int8 already"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_left_alone(prepare: Any, words: str) -> None:
    model = tiny_model()
    prepare(model)
    before = {name: type(one) for name, one in model.named_modules()}
    with pytest.raises(InvalidInputError, match=words):
        quantize(model, "fp8")
    assert {name: type(one) for name, one in model.named_modules()} == before


def test_adapters_on_a_quantised_model_are_refused() -> None:
    model = tiny_model()
    quantize(model, "int8")
    with pytest.raises((InvalidInputError, IncompatibleInputsError)):
        add_lora(model, LoraSettings(rank=2), generator=torch.Generator())
    assert is_quantised(model)


def test_unknown_formats_and_models_without_wide_layers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="fp8 or int8"):
        quantize(tiny_model(), "int4")
    with pytest.raises(InvalidInputError, match="nothing to store"):
        quantize(nn.Sequential(nn.Linear(16, 16)), "fp8")
