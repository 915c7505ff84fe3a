"""LoRAs in fused queries, keys and values: the bits of separate layers, put in and taken out."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any

import pytest
import torch
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv, self_attentions, unfuse_qkv
from latte_core.model.weights.lora import LoraSettings, add_lora
from latte_core.model.weights.merge import LoraPatch, merge_lora
from latte_core.precision.quantize import quantize

BLOCK = "transformer_blocks.1.attn1"
OTHER = "temporal_transformer_blocks.0.attn1"
SPELLINGS = [
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
]


def lora(
    seed: int,
    *layers: str,
    rank: int = 3,
    alpha: float | None = None,
    parts: tuple[str, str] = SPELLINGS[0],
) -> dict[str, Tensor]:
    """Return a native LoRA of layers of width 16, in float32 or, for odd seeds, bfloat16."""
    draws = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if seed % 2 else torch.float32
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        start = f"diffusion_model.{layer}."
        tensors[start + parts[0]] = torch.randn(rank, 16, generator=draws).to(dtype)
        tensors[start + parts[1]] = torch.randn(16, rank, generator=draws).to(dtype)
        if alpha is not None:
            tensors[start + "alpha"] = torch.tensor(alpha)
    return tensors


LORAS = [
    lora(0, f"{BLOCK}.to_q", f"{BLOCK}.to_v", f"{BLOCK}.to_out.0"),
    lora(1, f"{BLOCK}.to_q", f"{OTHER}.to_k", rank=1, alpha=2.0),
    lora(2, f"{OTHER}.to_k", f"{BLOCK}.to_v", "transformer_blocks.0.attn2.to_q", alpha=1.0),
]
STRENGTHS = [0.7, -0.5, 2.0]


def fused_model(dtype: torch.dtype = torch.float32) -> LatteT2V:
    model = tiny_model().to(dtype)
    fuse_qkv(model)
    return model


def merge_all(model: nn.Module) -> list[LoraPatch]:
    pairs = zip(LORAS, STRENGTHS, strict=True)
    return [merge_lora(model, tensors, strength) for tensors, strength in pairs]


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors as they lie in memory, under the names of the model's own layers."""
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first
    )


def run(model: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 3, 4, 6, generator=draws)
    with torch.no_grad():
        return model(latents, torch.tensor([40.0, 900.0]), torch.randn(2, 5, 24, generator=draws))


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("parts", SPELLINGS)
@pytest.mark.parametrize(("strength", "alpha"), [(1.0, None), (0.3, 2.0), (-2.0, 0.5), (0.0, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merging_into_a_fused_model_stores_the_bits_of_merging_first(
    dtype: torch.dtype, strength: float, alpha: float | None, parts: tuple[str, str]
) -> None:
    tensors = lora(4, f"{BLOCK}.to_k", f"{OTHER}.to_q", f"{OTHER}.to_v", alpha=alpha, parts=parts)
    first, model = tiny_model().to(dtype), fused_model(dtype)
    before = stored(model)
    merge_lora(first, tensors, strength)
    fuse_qkv(first)
    patch = merge_lora(model, tensors, strength)
    assert same(stored(model), stored(first))
    changed = [name for name, one in stored(model).items() if not torch.equal(one, before[name])]
    assert changed == ([f"{BLOCK}.to_qkv.weight", f"{OTHER}.to_qkv.weight"] if strength else [])
    assert patch.layers == (f"{BLOCK}.to_k", f"{OTHER}.to_q", f"{OTHER}.to_v")


def test_a_fused_model_computes_what_the_separate_one_does_with_the_same_loras() -> None:
    model, separate = fused_model(), tiny_model()
    plain = run(model)
    merge_all(separate)
    merge_all(model)
    assert near(run(model), run(separate))
    assert not near(run(model), plain)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loras_are_removed_from_a_fused_model_in_any_order(
    dtype: torch.dtype, order: tuple[int, ...]
) -> None:
    model = fused_model(dtype)
    before = stored(model)
    patches, left = merge_all(model), [0, 1, 2]
    for number in order:
        patches[number].remove()
        left.remove(number)
        expected = tiny_model().to(dtype)
        for other in left:
            merge_lora(expected, LORAS[other], STRENGTHS[other])
        fuse_qkv(expected)
        assert same(stored(model), stored(expected))
    assert same(stored(model), before)
    assert not hasattr(model, "merged_loras")


@pytest.mark.parametrize("start", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("turn_at", range(7))
def test_fusing_and_taking_apart_keep_what_is_merged(turn_at: int, start: bool) -> None:
    model, alone = tiny_model().to(torch.bfloat16), tiny_model().to(torch.bfloat16)
    if start:
        fuse_qkv(model)
    turn = unfuse_qkv if start else fuse_qkv
    patches: dict[nn.Module, list[LoraPatch]] = {model: [], alone: []}
    steps: list[tuple[str, int]] = [("in", 0), ("in", 1), ("out", 0), ("in", 2), ("out", 1)]
    for at, (what, number) in enumerate([*steps, ("out", 2), ("end", 0)]):
        if at == turn_at:
            turn(model)
        for one, merged in patches.items():
            if what == "in":
                merged.append(merge_lora(one, LORAS[number], STRENGTHS[number]))
            elif what == "out":
                merged[number].remove()
        assert same(model.state_dict(), alone.state_dict())
    assert same(model.state_dict(), tiny_model().to(torch.bfloat16).state_dict())


def test_the_originals_of_changed_layers_are_all_that_is_kept() -> None:
    model = fused_model()
    weights = dict(model.named_parameters())
    places = {name: one.data_ptr() for name, one in weights.items()}
    merge_all(model)
    kept: Any = model.merged_loras
    assert set(kept) == {name for patch in LORAS for name in layers_in(patch)}
    assert {tuple(one.original.shape) for one in kept.values()} == {(16, 16)}
    assert sum(one.original.untyped_storage().nbytes() for one in kept.values()) == 5 * 16 * 16 * 4
    found = dict(model.named_parameters())
    assert all(found[name] is one for name, one in weights.items())  # graphs look there
    assert {name: one.data_ptr() for name, one in found.items()} == places


def layers_in(tensors: dict[str, Tensor]) -> set[str]:
    names = {name for name in tensors if name.endswith("lora_A.weight")}
    return {name[len("diffusion_model.") : -len(".lora_A.weight")] for name in names}


def test_copy_of_a_fused_model_keeps_its_lora_when_the_original_loses_it() -> None:
    model = fused_model()
    before, patch = stored(model), merge_lora(model, LORAS[0])
    twin, merged = copy.deepcopy(model), stored(model)
    patch.remove()
    assert same(stored(model), before) and same(stored(twin), merged)


@pytest.mark.parametrize("fuses_first", [True, False])
def test_a_lora_becomes_part_of_a_fused_model_in_eight_bits(fuses_first: bool) -> None:
    model, expected = tiny_model(), tiny_model()
    merge_all(expected)
    quantize(expected, "int8")
    if fuses_first:
        fuse_qkv(model)
    patches = merge_all(model)
    fuse_qkv(model)
    quantize(model, "int8")
    assert same(model.state_dict(), expected.state_dict())
    for patch in patches:
        with pytest.raises(InvalidInputError, match="quantised with it"):
            patch.remove()
    assert same(model.state_dict(), expected.state_dict())
    with pytest.raises(InvalidInputError, match="merge the LoRA, then quantise"):
        merge_lora(model, LORAS[0])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("transformer_blocks.9.attn1.to_q", "blocks.9.attn1.to_q, which this model does not have"),
        (f"{BLOCK}.to_qkv", "to_qkv, which this model does not have"),
        ("transformer_blocks.0.ff.net.2", r"layer's weight is \(16, 64\)"),
    ],
)
def test_lora_that_does_not_fit_a_fused_model_changes_nothing(layer: str, words: str) -> None:
    model = fused_model()
    before = stored(model)
    with pytest.raises(IncompatibleInputsError, match=words):
        merge_lora(model, {**LORAS[0], **lora(3, layer)})
    wide = lora(0, f"{BLOCK}.to_q")
    wide[f"diffusion_model.{BLOCK}.to_q.lora_B.weight"] = torch.ones(48, 3)
    with pytest.raises(IncompatibleInputsError, match=r"the layer's weight is \(16, 16\)"):
        merge_lora(model, wide)
    assert same(stored(model), before) and not hasattr(model, "merged_loras")


def test_adapters_are_not_trained_on_fused_layers_and_the_way_out_is_named() -> None:
    model = fused_model()
    settings, draws = LoraSettings(rank=1), torch.Generator().manual_seed(0)
    with pytest.raises(InvalidInputError, match="apart with unfuse_qkv"):
        add_lora(model, settings, generator=draws)
    assert all(one.requires_grad for one in model.parameters())
    unfuse_qkv(model)
    assert len(add_lora(model, settings, generator=draws)) == 2 * (4 * 4 + 2 * 4)
    assert len(self_attentions(model)) == 4
