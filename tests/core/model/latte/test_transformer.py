"""Latte against docs/model.md 2 to 4, for every size, conditioning and arrangement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.latte_cases import error_of, even_latte, inputs_for
from latte_test_support.latte_formula import formula
from latte_test_support.tiny.latte import NO_CLASSES, TEXT

from latte_core.config.latte import PATCH_SIZES, SIZES, LatteConfig
from latte_core.model.latte.transformer import Latte

# float32 against float64 on outputs about 1
TOLERANCE = 1e-5
CONDITIONINGS: dict[str, dict[str, Any]] = {"none": NO_CLASSES, "class": {}, "text": TEXT}
INPUT_SIDE = {2: 4, 4: 8, 8: 16}  # two tokens on each side


def of_size(size: str, patch: int, **changes: Any) -> Latte:
    """Return a published size: its depth and its heads, each of 4 channels."""
    depth, _, heads = SIZES[size]
    return even_latte(
        depth=depth,
        num_heads=heads,
        hidden_size=4 * heads,
        patch_size=patch,
        input_size=INPUT_SIDE[patch],
        **changes,
    )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("patch", PATCH_SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_equals_the_formula(size: str, patch: int, conditioning: str) -> None:
    model = of_size(size, patch, **CONDITIONINGS[conditioning])
    assert error_of(model, inputs_for(model, frames=2 if size == "XL" else 3)) <= TOLERANCE


def test_clip_text_of_the_full_width_equals_the_formula() -> None:
    model = even_latte(conditioning="clip_text", num_classes=0)
    given = inputs_for(model, batch=2)
    assert given["text_embedding"].shape == (2, 59136)
    assert error_of(model, given) <= TOLERANCE
    tokens = given["text_embedding"].unflatten(1, (77, 768))
    with torch.no_grad():
        assert torch.equal(model(**given), model(**{**given, "text_embedding": tokens}))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tubelets": {"tubelet_size": 2, "num_frames": 4},
    "tubelets of 3 and patch 4": {"tubelet_size": 3, "num_frames": 6, "patch_size": 4},
    "tokens": {"injection": "tokens"},
    "tokens alone": {"injection": "tokens", **NO_CLASSES},
    "text tokens": {"injection": "tokens", **TEXT},
    "rotary": {"temporal_positions": "rotary"},
    "tokens and rotary": {"injection": "tokens", "temporal_positions": "rotary"},
    "noise alone": {"learn_sigma": False},
    "narrow feed-forward": {"mlp_ratio": 1.5},
    "always a class": {"class_dropout_prob": 0.0},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_every_variant_and_option_equals_the_formula(variant: int, option: str) -> None:
    model = even_latte(variant=variant, num_heads=4, hidden_size=32, **OPTIONS[option])
    given = inputs_for(model, frames=model.config.num_frames)
    assert error_of(model, given) <= TOLERANCE


@pytest.mark.parametrize("variant", [3, 4])
def test_variants_of_two_attentions_may_have_an_odd_number_of_blocks(variant: int) -> None:
    model = even_latte(variant=variant, depth=3)
    assert error_of(model, inputs_for(model)) <= TOLERANCE


def test_image_model_equals_the_formula() -> None:
    model = even_latte(has_temporal=False, num_frames=1, depth=3, num_classes=1000)
    assert error_of(model, inputs_for(model)) <= TOLERANCE


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_variants_are_different_models(variant: int) -> None:
    others = {1: 2, 2: 1, 3: 4, 4: 3}
    model = even_latte(variant=variant)
    other = even_latte(variant=others[variant])
    other.load_state_dict(model.state_dict())
    given = inputs_for(model)
    with torch.no_grad():
        assert float((model(**given) - other(**given)).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("frames", "size"),
    [
        pytest.param(1, (8, 8), id="one frame"),
        pytest.param(5, (8, 8), id="more frames"),
        pytest.param(3, (16, 16), id="larger"),
        pytest.param(3, (4, 10), id="wide"),
        pytest.param(2, (12, 4), id="tall and short"),
        pytest.param(3, (4, 16), id="rectangle of as many tokens"),
    ],
)
@pytest.mark.parametrize("variant", [1, 4])
def test_other_lengths_and_sizes_use_the_tables_of_the_formula(
    variant: int, frames: int, size: tuple[int, int]
) -> None:
    model = even_latte(variant=variant)
    assert error_of(model, inputs_for(model, frames=frames, size=size)) <= TOLERANCE


def test_other_number_of_tubelets_uses_the_table_of_the_formula() -> None:
    model = even_latte(tubelet_size=2, num_frames=4)
    assert error_of(model, inputs_for(model, frames=6, size=(4, 6))) <= TOLERANCE


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_rotary_positions_take_any_number_of_frames(frames: int) -> None:
    model = even_latte(temporal_positions="rotary")
    assert error_of(model, inputs_for(model, frames=frames)) <= TOLERANCE


@pytest.mark.parametrize("has_image_labels", [False, True])
@pytest.mark.parametrize("option", ["plain", "tokens", "rotary"])
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_clip_with_images_equals_the_formula(
    variant: int, option: str, has_image_labels: bool
) -> None:
    model = even_latte(variant=variant, **OPTIONS[option])
    given = inputs_for(model, batch=2, images=2, has_image_labels=has_image_labels)
    assert error_of(model, given) <= TOLERANCE


@pytest.mark.parametrize("conditioning", ["none", "text"])
def test_images_need_no_classes(conditioning: str) -> None:
    model = even_latte(**CONDITIONINGS[conditioning])
    assert error_of(model, inputs_for(model, batch=2, images=2)) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_clip_does_not_depend_on_the_images_behind_it(variant: int) -> None:
    model = even_latte(variant=variant)
    given = inputs_for(model, batch=2, images=3, has_image_labels=True)
    together = model(**given)
    clip, labels = given["latents"][:, :, :3], given["class_labels"]
    alone = model(clip, given["timesteps"], labels)
    # products of another number of rows round differently (docs/model.md 3)
    assert float((together[:, :, :3] - alone).abs().max()) <= 2e-6
    given["latents"][:, :, 3:] += 1
    given["image_labels"] = (given["image_labels"] + 1) % 5
    changed = model(**given)
    assert torch.equal(changed[:, :, :3], together[:, :, :3])
    assert float((changed[:, :, 3:] - together[:, :, 3:]).abs().amin(dim=(1, 3, 4)).max()) > 0


@torch.no_grad()
def test_each_image_is_an_image_of_its_own() -> None:
    model = even_latte()
    given = inputs_for(model, batch=1, images=2, has_image_labels=True)
    before = model(**given)
    given["latents"][:, :, 4] += 1
    after = model(**given)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4], after[:, :, 4])


@torch.no_grad()
def test_joint_model_without_images_gives_the_same_bits() -> None:
    assert LatteConfig.preset("LatteIMG-B/4") == LatteConfig.preset("Latte-B/4")
    model = even_latte()
    given = inputs_for(model)
    plain = model(given["latents"], given["timesteps"], given["class_labels"])
    assert torch.equal(model(**{**given, "num_images": 0}), plain)


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 2])
def test_without_temporal_attention_the_spatial_blocks_make_images(variant: int) -> None:
    model = even_latte(variant=variant)
    given = inputs_for(model)
    found = model(**given, enable_temporal_attention=False)
    spatial = [0, 2] if variant == 1 else [0, 1]
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    for place, number in enumerate(spatial):
        start = f"blocks.{number}."
        for name, value in model.state_dict().items():
            if name.startswith(start):
                weights[f"blocks.{place}.{name.removeprefix(start)}"] = value
    config = {**model.config.to_dict(), "variant": 1, "depth": 2, "has_temporal": False}
    labels = given["class_labels"]
    expected = formula(
        config, weights, given["latents"], timesteps=given["timesteps"], labels=labels
    )
    assert float((found.double() - expected).abs().max()) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("variant", [3, 4])
def test_without_temporal_attention_frames_do_not_see_each_other(variant: int) -> None:
    model = even_latte(variant=variant)
    given = inputs_for(model)
    before = model(**given, enable_temporal_attention=False)
    given["latents"][:, :, 1] += 1
    changed = (model(**given, enable_temporal_attention=False) - before).abs().amax((0, 1, 3, 4))
    assert (changed > 0).tolist() == [False, True, False]
