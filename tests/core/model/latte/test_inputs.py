"""What a Latte is called with: refusals, dropped labels, types, and the hooks of a host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.latte_cases import even_latte, inputs_for
from latte_test_support.tiny.latte import NO_CLASSES, TEXT, tiny_latte, tiny_latte_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latte_core.config.latte import LatteConfig
from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.model.latte.transformer import Latte

NEVER_DROPS: dict[str, Any] = {"class_dropout_prob": 0.0}


def call(changes: dict[str, Any] | None = None, **given: Any) -> Tensor:
    """Call a tiny Latte with two videos of 3 frames, where `given` says nothing else."""
    model = tiny_latte(**(changes or {}))
    latents, timesteps = given.pop("latents", torch.zeros(2, 4, 3, 8, 8)), torch.tensor([3, 999])
    if model.config.conditioning == "class":
        given.setdefault("class_labels", torch.tensor([0, 5]))
    return model(latents, given.pop("timesteps", timesteps), **given)


WRONG_KIND: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "three channels": ({}, {"latents": torch.zeros(2, 3, 3, 8, 8)}, r"\(2, 3, 3, 8, 8\).*4, frame"),
    "images": ({}, {"latents": torch.zeros(2, 4, 8, 8)}, r"\(2, 4, 8, 8\).*videos, 4"),
    "no frames": ({}, {"latents": torch.zeros(2, 4, 0, 8, 8)}, "nothing of it empty"),
    "timesteps": ({}, {"timesteps": torch.zeros(3)}, r"timesteps of shape \(3,\) for 2 videos"),
    "grid of timesteps": ({}, {"timesteps": torch.zeros(2, 1)}, r"timesteps of shape \(2, 1\)"),
    "label without classes": (NO_CLASSES, {"class_labels": torch.tensor([1, 1])}, "no classes"),
    "drop without classes": (NO_CLASSES, {"drop_labels": torch.tensor([True] * 2)}, "no classes"),
    "text": ({}, {"text_embedding": torch.zeros(2, 77, 768)}, "reads a class label"),
    "text alone": (NO_CLASSES, {"text_embedding": torch.zeros(2, 24)}, "neither text nor labels"),
    "narrow text": (TEXT, {"text_embedding": torch.zeros(2, 23)}, r"\(2, 23\).*24 values"),
    "three texts": (TEXT, {"text_embedding": torch.zeros(3, 24)}, r"\(3, 24\).*2 videos"),
    "three labels": ({}, {"class_labels": torch.tensor([1, 2, 3])}, r"\(3,\), but \(2,\)"),
    "labels of no image": ({}, {"image_labels": torch.zeros(2, 1).long()}, "without images"),
    "image labels": (
        {},
        {"image_labels": torch.zeros(2, 3).long(), "num_images": 2},
        r"\(2, 3\), but \(2, 2\) are needed",
    ),
    "three drops": ({}, {"drop_labels": torch.tensor([True] * 3)}, r"\(3,\).*each of 2 videos"),
}
WRONG_VALUE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "odd height": ({}, {"latents": torch.zeros(2, 4, 3, 7, 8)}, r"7 x 8.*2 cells \(16 pixels\)"),
    "odd width": ({"patch_size": 4}, {"latents": torch.zeros(2, 4, 3, 8, 6)}, "multiples of 4"),
    "whole numbers": ({}, {"latents": torch.zeros(2, 4, 3, 8, 8).long()}, "floating-point"),
    "tubelets": ({"tubelet_size": 3}, {"latents": torch.zeros(2, 4, 4, 8, 8)}, "multiple of 3"),
    "images and tubelets": (
        {"tubelet_size": 3},
        {"num_images": 1},
        "1 frames were given as single",
    ),
    "nothing but images": ({}, {"num_images": 3}, "3 of 3 frames.*0 to 2"),
    "negative images": ({}, {"num_images": -1}, "-1 of 3 frames"),
    "no label": ({}, {"class_labels": None}, "0 to 4.*5 means any class"),
    "no label, no null class": (
        {**NEVER_DROPS, "num_classes": 6},
        {"class_labels": None},
        r"0 to 5\.$",
    ),
    "no text": (TEXT, {}, "got none.*24 values"),
    "fractional label": ({}, {"class_labels": torch.tensor([0.5, 1])}, "whole numbers.*float32"),
    "truth as label": ({}, {"class_labels": torch.tensor([True, False])}, "whole numbers"),
    "label too high": (
        {},
        {"class_labels": torch.tensor([0, 6])},
        "label 6 is out of range.*0 to 4",
    ),
    "negative label": ({}, {"class_labels": torch.tensor([-1, 0])}, "label -1 is out of range"),
    "image label too high": (
        {},
        {"image_labels": torch.tensor([[1], [9]]), "num_images": 1},
        "label 9 is out of range",
    ),
    "null class that is none": (
        {**NEVER_DROPS, "num_classes": 5},
        {"class_labels": torch.tensor([0, 5])},
        "has no such class",
    ),
    "drop without null class": (
        {**NEVER_DROPS, "num_classes": 6},
        {"drop_labels": torch.tensor([True, False])},
        "Leave `drop_labels` out",
    ),
}


@pytest.mark.parametrize("case", WRONG_KIND)
def test_what_does_not_belong_to_the_model_is_refused(case: str) -> None:
    changes, given, words = WRONG_KIND[case]
    with pytest.raises(IncompatibleInputsError, match=words):
        call(changes, **given)


@pytest.mark.parametrize("case", WRONG_VALUE)
def test_what_cannot_be_used_is_refused(case: str) -> None:
    changes, given, words = WRONG_VALUE[case]
    with pytest.raises(InvalidInputError, match=words) as caught:
        call(changes, **given)
    assert not isinstance(caught.value, IncompatibleInputsError)


@torch.no_grad()
def test_single_label_and_timestep_serve_all_videos() -> None:
    model = even_latte()
    given = inputs_for(model, batch=2, images=2)
    one, both = torch.tensor([3]), torch.tensor([3, 3])
    spelled = {**given, "timesteps": torch.tensor([40, 40]), "class_labels": both}
    expected = model(**spelled)
    for time in (torch.tensor(40), torch.tensor([40.0]), torch.tensor([40, 40])):
        assert torch.equal(model(**{**given, "timesteps": time, "class_labels": one}), expected)
    images = {"image_labels": torch.full((2, 2), 3)}
    torch.testing.assert_close(model(**spelled, **images), expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_fractions_of_a_timestep_count() -> None:
    model = even_latte()
    given = inputs_for(model, batch=1)
    whole = model(**{**given, "timesteps": torch.tensor([500])})
    assert torch.equal(whole, model(**{**given, "timesteps": torch.tensor([500.0])}))
    assert not torch.equal(whole, model(**{**given, "timesteps": torch.tensor([500.5])}))


@torch.no_grad()
def test_videos_of_a_batch_do_not_influence_each_other() -> None:
    model = even_latte()
    given = inputs_for(model, size=(8, 12))
    together = model(**given)
    alone = [
        model(given["latents"][k, None], given["timesteps"][k], given["class_labels"][k])
        for k in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def labels_seen(model: Latte, given: dict[str, Any]) -> Tensor:
    """Return the labels that the label table is asked for: (B, 1 or 1 + I)."""
    seen: list[Tensor] = []
    watch = model.y_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**given)
    watch.remove()
    return seen[0]


def test_labels_are_never_dropped_at_random_in_evaluation() -> None:
    model = even_latte(class_dropout_prob=0.99)
    given = inputs_for(model)
    assert torch.equal(labels_seen(model, given)[:, 0], given["class_labels"])
    dropped = labels_seen(model, {**given, "drop_labels": torch.tensor([1, 0, 1])})
    assert dropped[:, 0].tolist() == [5, int(given["class_labels"][1]), 5]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_training_drops_labels_at_the_configured_rate(share: float) -> None:
    model = tiny_latte(class_dropout_prob=share, depth=2, input_size=2).train()
    latents, labels = torch.zeros(4000, 4, 1, 2, 2), torch.arange(4000) % 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = labels_seen(
            model, {"latents": latents, "timesteps": torch.tensor(1), "class_labels": labels}
        )[:, 0]
    is_dropped = seen != labels
    assert set(seen[is_dropped].tolist()) == {5}
    assert float(is_dropped.float().mean()) == pytest.approx(share, abs=0.03)


def test_training_drops_all_images_of_a_video_together_and_apart_from_its_clip() -> None:
    model = tiny_latte(class_dropout_prob=0.5, depth=2, input_size=2).train()
    given = {
        "latents": torch.zeros(400, 4, 4, 2, 2),
        "timesteps": torch.tensor(1),
        "class_labels": torch.tensor(1),
        "num_images": 3,
        "image_labels": torch.ones(400, 3).long(),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip, *images = (labels_seen(model, given) == 5).T
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert 150 < int((clip != images[0]).sum()) < 250


def test_training_without_a_null_class_drops_nothing() -> None:
    model = even_latte(**NEVER_DROPS).train()
    given = inputs_for(model)
    assert torch.equal(labels_seen(model, given)[:, 0], given["class_labels"])


@torch.no_grad()
def test_float32_latents_are_cast_once_for_a_half_precision_model() -> None:
    exact = even_latte()
    given = inputs_for(exact)
    expected = exact(**given)
    model = even_latte().to(torch.bfloat16)
    out = model(**given)
    assert out.dtype == torch.float32
    half = model(**{**given, "latents": given["latents"].bfloat16()})
    assert half.dtype == torch.bfloat16
    assert torch.equal(out, half.float())
    assert 0 < float((out - expected).abs().max()) < 0.15


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
@pytest.mark.parametrize("changes", [{}, {"tubelet_size": 3}, {"injection": "tokens"}])
def test_gradients_reach_every_weight_but_the_tables(variant: int, changes: dict[str, Any]) -> None:
    model = even_latte(variant=variant, **changes)
    model(**inputs_for(model)).square().mean().backward()
    without = {name for name, value in model.named_parameters() if value.grad is None}
    assert without == {"pos_embed", "temp_embed"}


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "kinds", "units"),
    [
        (1, ["spatial", "temporal"] * 2, 2),
        (2, ["spatial"] * 2 + ["temporal"] * 2, 4),
        (3, ["spatial", "temporal"] * 4, 4),
        (4, ["spatial", "temporal"] * 4, 4),
    ],
)
def test_every_attention_and_unit_goes_through_the_hooks(
    variant: int, kinds: list[str], units: int
) -> None:
    model = even_latte(variant=variant, num_heads=4, hidden_size=32)
    given = inputs_for(model, batch=2)
    calls: list[tuple[str, int, tuple[int, ...]]] = []
    ran: list[int] = []

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **kw: Any) -> Tensor:
        assert heads == (2 if variant == 4 else 4)
        calls.append((kw["kind"], kw["block_index"], tuple(q.shape)))
        return scaled_dot_product(q, k, v, heads)

    def run_block(unit: int, fn: Any, hidden: Tensor, context: Tensor, modulation: Tensor) -> Any:
        ran.append(unit)
        assert hidden.shape == (2, 3 * 16, 32)
        assert modulation.shape == (2, 1, 32)
        return fn(hidden, context, modulation)

    hooked = model(**given, hooks=BlockHooks(attention=attention, run_block=run_block))
    assert torch.equal(hooked, model(**given))
    assert ran == list(range(units))
    shapes = {"spatial": (2 * 3, 16, 32), "temporal": (2 * 16, 3, 32)}
    per_unit = len(kinds) // units
    assert calls == [(kind, n // per_unit, shapes[kind]) for n, kind in enumerate(kinds)]


@torch.no_grad()
def test_skipped_unit_changes_nothing_but_its_own_contribution() -> None:
    model = even_latte()
    given = inputs_for(model)

    def skip_second(unit: int, fn: Any, hidden: Tensor, *rest: Tensor) -> Tensor:
        return hidden if unit == 1 else fn(hidden, *rest)

    short = even_latte(depth=2)
    own = model.state_dict()
    short.load_state_dict({name: own[name] for name in short.state_dict()})
    skipped = model(**given, hooks=BlockHooks(run_block=skip_second))
    assert torch.equal(skipped, short(**given))


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 3])
def test_self_attention_hook_sees_spatial_attention_alone(variant: int) -> None:
    model = even_latte(variant=variant)
    given = inputs_for(model, batch=1)
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def zero(index: int, heads: int, out: Tensor) -> Tensor:
        seen.append((index, heads, tuple(out.shape)))
        return torch.zeros_like(out)

    changed = model(**given, hooks=BlockHooks(attn_output_hook=zero))
    assert seen == [(k, 2, (3, 16, 16)) for k in range(model.config.num_units)]
    assert not torch.equal(changed, model(**given))


@pytest.mark.parametrize("changes", [{}, {"tubelet_size": 3}, {"injection": "tokens"}])
def test_layers_come_from_the_given_operations_and_tables_stay_float32(
    changes: dict[str, Any],
) -> None:
    made: list[torch.nn.Module] = []

    class Operations:
        def __getattr__(self, name: str) -> Any:
            def make(*args: Any, **kwargs: Any) -> torch.nn.Module:
                made.append(getattr(torch.nn, name)(*args, **kwargs))
                return made[-1]

            return make

    config = LatteConfig.from_dict(tiny_latte_config(**changes))
    model = Latte(config, operations=Operations(), dtype=torch.bfloat16)
    layers = [m for m in model.modules() if list(m.parameters(recurse=False)) and m is not model]
    assert {id(m) for m in layers} == {id(m) for m in made}
    for name, value in model.named_parameters():
        assert value.dtype == (torch.float32 if "_embed" == name[-6:] else torch.bfloat16), name


@pytest.mark.parametrize("changes", [{}, {"temporal_positions": "rotary"}])
def test_the_model_needs_no_float64_on_its_device(changes: dict[str, Any]) -> None:
    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                    assert leaf.dtype != torch.float64, func
            return result

    with torch.device("meta"):
        model = Latte.from_config(tiny_latte_config(**changes)).eval()
        latents, labels = torch.empty(1, 4, 5, 8, 12), torch.zeros(1, dtype=torch.long)
    with NoFloat64():
        model(latents, torch.zeros(1, device="meta"), labels)
