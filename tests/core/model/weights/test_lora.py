"""Adapters for training: they start as nothing, train alone, and come off without a trace."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import IMAGE, NO_CLASSES, tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.attention import DEFAULT_HOOKS, BlockHooks
from latte_core.model.latte.transformer import Latte
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.lora import (
    LoraLinear,
    LoraSettings,
    add_lora,
    base_state,
    load_lora_state,
    lora_layers,
    lora_state,
    remove_lora,
)

ALL: Any = ("attention", "cross_attention", "feed_forward")
SETTINGS = LoraSettings(rank=2, alpha=3.0, targets=ALL)
VARIETIES: dict[str, dict[str, Any] | None] = {
    "text": None,
    "interleaved": {"variant": 1},
    "late fusion": {"variant": 2},
    "two attentions": {"variant": 3},
    "parallel": {"variant": 4},
    "tokens": {"injection": "tokens"},
    "no classes": NO_CLASSES,
}


def build(variety: str) -> LatteT2V | Latte:
    """Return a tiny model of a variety; every call returns the same weights."""
    changes = VARIETIES[variety]
    return tiny_model(3) if changes is None else tiny_latte(3, **changes)


def call(model: Any, *, hooks: BlockHooks = DEFAULT_HOOKS, temporal: bool = True) -> Tensor:
    """Run two clips of three frames, 8 x 4 cells, through a model of any variety."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, 8, 4, generator=generator)
    steps = torch.tensor([20, 700])
    given: list[Tensor] = []
    if isinstance(model, LatteT2V):
        given = [torch.randn(2, 5, 24, generator=generator)]
    elif model.config.conditioning == "class":
        given = [torch.tensor([1, 4])]
    return model(latents, steps, *given, enable_temporal_attention=temporal, hooks=hooks)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adapt(model: LatteT2V | Latte, settings: LoraSettings = SETTINGS, *, seed: int = 5) -> Any:
    """Add adapters whose B is not zero any more, as after some training."""
    trained = add_lora(model, settings, generator=generator(seed))
    draws = generator(seed + 1)
    with torch.no_grad():
        for parameter in trained[1::2]:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return trained


@pytest.mark.parametrize("variety", VARIETIES)
def test_new_adapters_change_no_bit_of_the_output(variety: str) -> None:
    model = build(variety)
    with torch.no_grad():
        before = call(model)
        add_lora(model, SETTINGS, generator=generator())
        assert torch.equal(call(model), before)
    assert lora_layers(model)


@pytest.mark.parametrize("variety", VARIETIES)
def test_adapters_add_their_product_to_the_weights(variety: str) -> None:
    model, changed = build(variety), build(variety)
    adapt(model)
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            product = layer.lora_B.weight @ layer.lora_A.weight
            changed.get_submodule(name).weight.add_(3.0 / 2 * product)
        expected = call(changed)
        torch.testing.assert_close(call(model), expected, atol=1e-5, rtol=1e-5)
        assert (expected - call(build(variety))).abs().max() > 1e-3


def test_only_adapters_are_trained_and_only_they_change() -> None:
    model = build("text")
    trained = add_lora(model, SETTINGS, generator=generator())
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [id(one) for one in free] == [id(one) for one in trained]
    assert len(trained) == 2 * len(lora_layers(model)) == 2 * (2 * 10 + 2 * 6)

    before = {name: value.clone() for name, value in base_state(model).items()}
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    for _ in range(2):  # the gradient of A is 0 while B is
        optimizer.zero_grad()
        call(model).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in base_state(model).items())
    assert all(bool(one.grad is not None and one.grad.any()) for one in trained)


def layer_names(variety: str, **changes: Any) -> set[str]:
    """Return the names of layers that settings choose."""
    model = build(variety)
    add_lora(model, LoraSettings(rank=1, **changes), generator=generator())
    return set(lora_layers(model))


def blocks_of(names: set[str]) -> set[tuple[int, str]]:
    """Return block number and part of names like blocks.3.attn.qkv."""
    return {(int(name.split(".")[1]), name.split(".")[2]) for name in names}


@pytest.mark.parametrize(
    ("variety", "spatial", "temporal"),
    [
        ("interleaved", {(0, "attn"), (2, "attn")}, {(1, "attn"), (3, "attn")}),
        ("late fusion", {(0, "attn"), (1, "attn")}, {(2, "attn"), (3, "attn")}),
        ("two attentions", {(i, "attn") for i in range(4)}, {(i, "attn_temp") for i in range(4)}),
        ("parallel", {(i, "attn") for i in range(4)}, {(i, "attn_temp") for i in range(4)}),
    ],
)
def test_kinds_of_blocks_are_those_of_the_variant(
    variety: str, spatial: set[tuple[int, str]], temporal: set[tuple[int, str]]
) -> None:
    found = {kind: layer_names(variety, blocks=kind) for kind in ("spatial", "temporal", "both")}
    assert blocks_of(found["spatial"]) == spatial
    assert blocks_of(found["temporal"]) == temporal
    assert found["both"] == found["spatial"] | found["temporal"]
    assert len(found["both"]) == 2 * len(spatial | temporal)  # qkv and proj


def test_targets_of_a_text_model_are_the_released_names() -> None:
    self_attention = {f"attn1.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")}
    cross = {name.replace("attn1", "attn2") for name in self_attention}
    feed_forward = {"ff.net.0.proj", "ff.net.2"}
    expected = {
        ("spatial", ("attention",)): self_attention,
        ("spatial", ("cross_attention",)): cross,
        ("temporal", ("attention", "cross_attention")): self_attention,
        ("temporal", ("feed_forward",)): feed_forward,
        ("spatial", ALL): self_attention | cross | feed_forward,
    }
    starts = {"spatial": "transformer_blocks", "temporal": "temporal_transformer_blocks"}
    for (kind, targets), names in expected.items():
        found = layer_names("text", blocks=kind, targets=targets)
        assert found == {f"{starts[kind]}.{i}.{name}" for i in range(2) for name in names}


@pytest.mark.parametrize("variety", VARIETIES)
def test_temporal_adapters_leave_single_frames_alone(variety: str) -> None:
    models: dict[Any, LatteT2V | Latte] = {kind: build(variety) for kind in ("spatial", "temporal")}
    for kind, model in models.items():
        adapt(model, LoraSettings(rank=2, blocks=kind, targets=ALL))
    with torch.no_grad():
        still, moving = call(build(variety), temporal=False), call(build(variety))
        assert torch.equal(call(models["temporal"], temporal=False), still)
        assert (call(models["temporal"]) - moving).abs().max() > 1e-3
        assert (call(models["spatial"], temporal=False) - still).abs().max() > 1e-3


def test_image_model_has_spatial_blocks_only() -> None:
    model = tiny_latte(**IMAGE)
    add_lora(model, LoraSettings(blocks="spatial"), generator=generator())
    assert len(lora_layers(model)) == 8
    with pytest.raises(InvalidInputError, match="no layer of attention.* in temporal blocks"):
        add_lora(tiny_latte(**IMAGE), LoraSettings(blocks="temporal"), generator=generator())


@pytest.mark.parametrize("variety", VARIETIES)
def test_removal_brings_back_the_same_layers_and_bits(variety: str) -> None:
    model = build(variety)
    modules = dict(model.named_modules())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name: value.requires_grad for name, value in model.named_parameters()}
    adapt(model)
    remove_lora(model)
    found = model.state_dict()
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert {name: id(one) for name, one in model.named_modules()} == {
        name: id(one) for name, one in modules.items()
    }
    assert {name: value.requires_grad for name, value in model.named_parameters()} == trained
    remove_lora(model)  # nothing to do
    add_lora(model, SETTINGS, generator=generator())


def test_states_are_apart_and_the_base_keeps_its_names() -> None:
    model = build("text")
    names = list(model.state_dict())
    adapt(model)
    assert sorted(base_state(model)) == sorted(names)
    build("text").load_state_dict(base_state(model), strict=True)
    parts = ("lora_A.weight", "lora_B.weight", "alpha")
    expected = {f"diffusion_model.{name}.{part}" for name in lora_layers(model) for part in parts}
    state = lora_state(model)
    assert set(state) == expected
    assert {float(value) for name, value in state.items() if name.endswith("alpha")} == {3.0}
    assert lora_state(build("text")) == {}


def test_matrices_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (build("interleaved") for _ in range(3))
    before = torch.get_rng_state()
    add_lora(first, SETTINGS, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(before, state)
    add_lora(again, SETTINGS, generator=generator(1))
    add_lora(other, SETTINGS, generator=generator(2))
    name = "diffusion_model.blocks.1.mlp.fc2.lora_A.weight"
    down = lora_state(first)[name]
    assert down.shape == (2, 64) and 0.5 / 8 < down.abs().max() <= 1 / 8  # 1 / sqrt(columns)
    assert torch.equal(down, lora_state(again)[name])
    assert not torch.equal(down, lora_state(other)[name])


def gradients(model: Any, *, saves_memory: bool, seed: int = 0) -> list[Tensor]:
    """Return the adapters' gradients, with or without recomputed activations."""

    def run_block(_: int, fn: Any, *tensors: Tensor) -> Tensor:
        return checkpoint(fn, *tensors, use_reentrant=False)

    hooks = BlockHooks(run_block=run_block) if saves_memory else DEFAULT_HOOKS
    model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        call(model, hooks=hooks).square().mean().backward()
    return [one.grad.clone() for one in model.parameters() if one.requires_grad]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("variety", ["text", "interleaved", "two attentions"])
def test_recomputed_activations_give_the_same_gradients(variety: str, dropout: float) -> None:
    model = build(variety).train()
    adapt(model, LoraSettings(rank=2, dropout=dropout, targets=ALL))
    if isinstance(model, Latte):
        model.eval()  # labels are dropped at random in training mode
        for layer in lora_layers(model).values():
            layer.train()
    plain = gradients(model, saves_memory=False)
    saved = gradients(model, saves_memory=True)
    other = gradients(model, saves_memory=False, seed=1)
    for one, two in zip(plain, saved, strict=True):
        torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-4)
    is_same = all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))
    assert is_same == (dropout == 0)


def test_dropout_is_off_in_evaluation_mode() -> None:
    model = build("text")
    adapt(model, LoraSettings(rank=2, dropout=0.5))
    with torch.no_grad():
        assert torch.equal(call(model), call(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variety", ["text", "parallel"])
def test_bfloat16_runs_with_float32_adapters(variety: str, dtype: torch.dtype) -> None:
    model = build(variety)
    adapt(model)
    with torch.no_grad():
        expected = call(model)
    remove_lora(model)
    model.to(dtype)
    adapt(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
        out = call(model)
    out.float().square().mean().backward()
    free = [one for one in model.parameters() if one.requires_grad]
    assert {one.dtype for one in free} == {torch.float32}
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in free)
    error = (out.float() - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.1  # bfloat16 has 8 bits


def test_type_of_the_model_may_change_under_its_adapters() -> None:
    model = build("interleaved")
    adapt(model)
    model.to(torch.float64)
    remove_lora(model)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}


def test_copies_of_an_adapted_model_are_independent() -> None:
    model = build("interleaved")
    adapt(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = call(model)
        for parameter in twin.parameters():
            parameter.mul_(2)
        remove_lora(twin)
        assert torch.equal(call(model), before)
    assert not any(isinstance(one, LoraLinear) for one in twin.modules())


def test_adapters_can_be_taken_up_again() -> None:
    model, fresh = build("text"), build("text")
    adapt(model)
    add_lora(fresh, SETTINGS, generator=generator(9))
    load_lora_state(fresh, {name: value.clone() for name, value in lora_state(model).items()})
    with torch.no_grad():
        assert torch.equal(call(fresh), call(model))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 3}, "of another rank"),
        ({"alpha": 4.0}, "of another alpha"),
        ({"blocks": "temporal"}, "60 are unknown"),
        ({"targets": ("attention",)}, "0 tensors are missing, 48 are unknown"),
    ],
)
def test_adapters_of_another_shape_are_refused(changes: dict[str, Any], words: str) -> None:
    model, other = build("text"), build("text")
    adapt(model)
    add_lora(other, LoraSettings(**{"rank": 2, "alpha": 3.0, "targets": ALL, **changes}),
             generator=generator())  # fmt: skip
    with pytest.raises(IncompatibleInputsError, match=words):
        load_lora_state(other, lora_state(model))


def test_second_adapters_are_refused() -> None:
    model = build("text")
    add_lora(model, SETTINGS, generator=generator())
    with pytest.raises(InvalidInputError, match="remove_lora first"):
        add_lora(model, SETTINGS, generator=generator())


def test_settings_that_choose_nothing_are_refused_and_nothing_is_frozen() -> None:
    model = build("text")
    nothing = LoraSettings(blocks="temporal", targets=("cross_attention",))
    with pytest.raises(InvalidInputError, match="no layer of cross_attention in temporal blocks"):
        add_lora(model, nothing, generator=generator())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_of_a_host_are_refused() -> None:
    class HostLinear(nn.Linear):
        """A layer that casts by itself."""

    class Host(nn.Module):
        Linear, Conv2d = HostLinear, nn.Conv2d

    model = LatteT2V.from_config(tiny_model().config, operations=Host)
    with pytest.raises(InvalidInputError, match="plain layers only"):
        add_lora(model, SETTINGS, generator=generator())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank is 0 .* from 1 to 4096"),
        ({"rank": True}, "rank is True"),
        ({"rank": 4.0}, "rank is 4.0"),
        ({"alpha": 0}, "alpha is 0 .* above 0"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"alpha": "1"}, "alpha is '1'"),
        ({"dropout": 1.0}, "dropout is 1.0 .* below 1"),
        ({"blocks": "motion"}, "blocks is 'motion' .* spatial, temporal, both"),
        ({"targets": ()}, r"targets is \(\)"),
        ({"targets": ("mlp",)}, "some of attention, cross_attention, feed_forward"),
        ({"targets": "attention"}, "targets is 'attention'"),
        ({"targets": ("attention", "attention")}, "each once"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        LoraSettings(**changes)
