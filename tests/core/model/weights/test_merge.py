"""LoRAs in a model's weights for sampling: they add what they should, and leave no trace."""

from __future__ import annotations

import copy
import math
from itertools import permutations
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state, remove_lora
from latte_core.model.weights.merge import merge_lora

LAYER = "temporal_transformer_blocks.1.attn1.to_out.0"
START = f"diffusion_model.{LAYER}."


def pair(seed: int = 0, rank: int = 4, layer: str = LAYER, **alpha: float) -> dict[str, Tensor]:
    """Return the native LoRA of one layer of width 16."""
    draws = torch.Generator().manual_seed(seed)
    start = f"diffusion_model.{layer}."
    tensors = {
        f"{start}lora_A.weight": torch.randn(rank, 16, generator=draws),
        f"{start}lora_B.weight": torch.randn(16, rank, generator=draws),
    }
    return {**tensors, **{f"{start}alpha": torch.tensor(value) for value in alpha.values()}}


def product(tensors: dict[str, Tensor], layer: str = LAYER) -> Tensor:
    start = f"diffusion_model.{layer}."
    return tensors[f"{start}lora_B.weight"] @ tensors[f"{start}lora_A.weight"]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return list(found) == list(weights) and all(
        torch.equal(found[name], value) for name, value in weights.items()
    )


@pytest.mark.parametrize("strength", [1.0, -0.5, 2])
@pytest.mark.parametrize(("alpha", "factor"), [({}, 1.0), ({"alpha": 2.0}, 0.5)])
def test_weight_changes_by_strength_times_alpha_over_rank(
    strength: float, alpha: dict[str, float], factor: float
) -> None:
    model = tiny_model()
    before, tensors = weights_of(model), pair(**alpha)
    patch = merge_lora(model, tensors, strength)
    after = model.state_dict()
    expected = before[f"{LAYER}.weight"] + strength * factor * product(tensors)
    torch.testing.assert_close(after[f"{LAYER}.weight"], expected, atol=1e-6, rtol=1e-6)
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        f"{LAYER}.weight"
    ]
    assert patch.layers == (LAYER,) and patch.strength == strength and patch.is_merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_removal_brings_back_every_bit(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    before = weights_of(model)
    patch = merge_lora(model, pair(), 0.7)
    assert not same(model, before)
    patch.remove()
    assert same(model, before) and not patch.is_merged
    assert all(not hasattr(module, "merged_loras") for module in model.modules())
    patch.remove()  # nothing to do
    assert same(model, before)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_loras_can_be_removed_in_any_order(order: tuple[int, ...]) -> None:
    model = tiny_model().to(torch.bfloat16)
    before = weights_of(model)
    second = "transformer_blocks.0.attn2.to_k"
    loras = [pair(1), {**pair(2, rank=1), **pair(3, layer=second)}, pair(4, rank=8)]
    patches = [merge_lora(model, lora, 0.5) for lora in loras]
    left = set(range(3))
    for number in order:
        patches[number].remove()
        left.discard(number)
        alone = tiny_model().to(torch.bfloat16)
        for other in sorted(left):
            merge_lora(alone, loras[other], 0.5)
        assert same(model, weights_of(alone))
    assert same(model, before)


def test_merged_model_gives_what_the_adapted_one_gives() -> None:
    for build in (tiny_model, tiny_latte):
        adapted, plain = build(2), build(2)
        draws = torch.Generator().manual_seed(0)
        settings = LoraSettings(rank=3, alpha=6.0, targets=("attention", "feed_forward"))
        trained = add_lora(adapted, settings, generator=draws)
        with torch.no_grad():
            for up in trained[1::2]:
                up.copy_(torch.randn(up.shape, generator=draws) * 0.1)
        merge_lora(plain, lora_state(adapted))
        last = torch.randn(2, 5, 24) if build is tiny_model else torch.tensor([0, 4])
        given: Any = (torch.randn(2, 4, 3, 8, 4), torch.tensor([5, 900]), last)
        with torch.no_grad():
            torch.testing.assert_close(plain(*given), adapted(*given), atol=1e-5, rtol=1e-5)


def test_patch_layers_of_images_can_be_changed_too() -> None:
    model = tiny_model()
    before = model.pos_embed.proj.weight.detach().clone()
    up, down = torch.randn(16, 2, 1, 1), torch.randn(2, 4, 2, 2)
    start = "diffusion_model.pos_embed.proj."
    patch = merge_lora(model, {f"{start}lora_up.weight": up, f"{start}lora_down.weight": down})
    change = torch.einsum("or,rchw->ochw", up[..., 0, 0], down)
    torch.testing.assert_close(model.pos_embed.proj.weight.detach(), before + change)
    patch.remove()
    assert torch.equal(model.pos_embed.proj.weight, before)


def test_strength_zero_changes_nothing() -> None:
    model = tiny_model()
    before = weights_of(model)
    merge_lora(model, pair(), 0)
    assert same(model, before)


def test_copy_of_a_model_keeps_its_lora_when_the_original_loses_it() -> None:
    model = tiny_model()
    patch = merge_lora(model, pair())
    twin = copy.deepcopy(model)
    merged = weights_of(model)
    patch.remove()
    assert same(twin, merged) and not same(model, merged)


def test_adapters_in_training_and_merged_loras_do_not_mix() -> None:
    model = tiny_model()
    before = weights_of(model)
    patch = merge_lora(model, pair())
    merged = weights_of(model)
    add_lora(model, LoraSettings(rank=2), generator=torch.Generator())
    with pytest.raises(InvalidInputError, match="remove_lora first"):
        merge_lora(model, pair(1))
    remove_lora(model)
    assert same(model, merged)
    patch.remove()
    assert same(model, before)


@pytest.mark.parametrize("strength", [math.nan, math.inf, "1", True])
def test_strength_that_is_no_number_is_refused(strength: Any) -> None:
    with pytest.raises(InvalidInputError, match="strength of a LoRA"):
        merge_lora(tiny_model(), pair(), strength)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{START}lora_A.weight": torch.ones(2, 16)}, "by lora_A.weight, but"),
        ({**pair(), f"{START}dora_scale": torch.ones(16, 1)}, "dora_scale, but here only plain"),
        ({f"{START}hada_w1_a": torch.ones(16, 2)}, "DoRA, LoHa and LoKr"),
        ({**pair(), f"{START}alpha": torch.ones(2)}, "two matrices and their alpha"),
        (pair(layer="transformer_blocks.9.attn1.to_q"), "blocks.9.attn1.to_q, which this model"),
        (pair(layer="transformer_blocks.0.ff.net.0.proj"), r"layer's weight is \(64, 16\)"),
        ({f"{START}lora_A.weight": torch.ones(0, 16), f"{START}lora_B.weight": torch.ones(16, 0)},
         r"matrices are \(16, 0\)"),
        ({f"{START}lora_A.weight": torch.ones(3, 16), f"{START}lora_B.weight": torch.ones(16, 2)},
         r"matrices are \(16, 2\) and \(3, 16\)"),
    ],
)  # fmt: skip
def test_lora_that_does_not_fit_is_refused_and_nothing_changes(
    tensors: dict[str, Tensor], words: str
) -> None:
    model = tiny_model()
    before = weights_of(model)
    good = pair(layer="transformer_blocks.0.attn1.to_q")
    with pytest.raises(IncompatibleInputsError, match=words):
        merge_lora(model, {**good, **tensors})
    assert same(model, before)
    assert all(not hasattr(module, "merged_loras") for module in model.modules())
