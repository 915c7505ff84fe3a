"""Recognising class-conditional and unconditional Lattes, and DiTs, by their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from latte_test_support.malformed import FAMILY_NAMES
from latte_test_support.tiny.latte import IMAGE, NO_CLASSES, TEXT, tiny_latte, tiny_latte_config

from latte_core.checkpoint import detect_latte, detect_t2v
from latte_core.config.latte import PRESETS, LatteConfig
from latte_core.errors import CorruptCheckpointError, InvalidInputError, WeightMismatchError
from latte_core.model.latte.transformer import Latte

TABLES = ("pos_embed", "temp_embed", "text_embedding_projection.1.weight")
HEADS: dict[str, Any] = {"num_heads": 2}


class Known:
    """A shape of which only so many dimensions may be looked at, as of a packed weight."""

    def __init__(self, shape: tuple[int, ...], known: int) -> None:
        self.sizes, self.known = shape, known

    @property
    def shape(self) -> Known:
        return self

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: object) -> int:
        assert isinstance(index, int) and index < self.known, "this dimension may not be read"
        return self.sizes[index]

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("the whole shape may not be read")


def lazy(config: LatteConfig, prefix: str = "") -> dict[str, Any]:
    """The model's names, of which only tables show their second dimension."""
    found = Latte(config, device="meta").state_dict()
    return {
        f"{prefix}{key}": Known(tuple(value.shape), 2 if key in TABLES else 1)
        for key, value in found.items()
    }


def tiny(**changes: Any) -> LatteConfig:
    return LatteConfig.from_dict(tiny_latte_config(**changes))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_is_found_from_names_and_few_dimensions(preset: str, prefix: str) -> None:
    config = LatteConfig.preset(preset)
    assert detect_latte(lazy(config, prefix), prefix=prefix) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": "class", "num_classes": 101},
        {"conditioning": "clip_text"},
        {"conditioning": "clip_text", "text_features": 1024},
        {"learn_sigma": False},
        {"input_size": 64, "num_frames": 32},
        {"tubelet_size": 2},
        {"tubelet_size": 4, "learn_sigma": False},
        {"injection": "tokens"},
        {"mlp_ratio": 2.0},
        {"mlp_ratio": 1.5},
        {"conditioning": "class", "num_classes": 1000, "has_temporal": False, "num_frames": 1},
    ],
    ids=str,
)
def test_what_weights_show_needs_no_config(changes: dict[str, Any]) -> None:
    config = LatteConfig.preset("Latte-S/2", **changes)
    assert detect_latte(lazy(config)) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": 2},
        {"variant": 3},
        {"variant": 4},
        {"variant": 3, "temporal_positions": "rotary"},
        {"temporal_positions": "rotary"},
        {"temporal_positions": "rotary", **NO_CLASSES},
        {"class_dropout_prob": 0.0},
        {"in_channels": 16},
        {"mlp_ratio": 2.3},
        IMAGE,
        {**IMAGE, **NO_CLASSES},
        TEXT,
    ],
    ids=str,
)
def test_what_weights_do_not_show_comes_from_the_config_in_the_file(
    changes: dict[str, Any],
) -> None:
    config = tiny(**changes)
    assert detect_latte(lazy(config), {"config": json.dumps(config.to_dict())}) == config
    assert detect_latte(lazy(config), config=config) == config


@pytest.mark.parametrize("ratio", [2.3, 1.1, 3.7, 0.99])
def test_inner_width_of_any_ratio_is_found(ratio: float) -> None:
    config = LatteConfig.preset("Latte-S/2", mlp_ratio=ratio)
    found = detect_latte(lazy(config))
    assert found is not None
    assert int(384 * found.mlp_ratio) == int(384 * ratio)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"extras": 2, "num_heads": 2}, {"conditioning": "class", "num_classes": 5}),
        ({"extras": 2, "num_classes": 5, **HEADS}, {"conditioning": "class"}),
        ({"latent_size": 8, "attention_mode": "math", **HEADS}, {"input_size": 8}),
        ({"image_size": 64, "learn_sigma": True, **HEADS}, {"input_size": 8}),
    ],
    ids=str,
)
def test_reference_names_are_understood(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = detect_latte(lazy(tiny()), config=given)
    assert found is not None
    assert expected.items() <= found.to_dict().items()


def test_given_settings_win_over_the_file_under_any_name() -> None:
    weights = lazy(tiny(variant=1))
    metadata = {"config": json.dumps(tiny_latte_config(num_heads=4, variant=1))}
    found = detect_latte(weights, metadata, config={"num_heads": 2, "latent_size": 8, "variant": 2})
    assert found == tiny(variant=2)


def test_config_tensor_of_a_saved_model_is_read() -> None:
    config = tiny(variant=2)
    text = json.dumps(config.to_dict()).encode()
    tensor = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    prefix = "model.diffusion_model."
    weights = {**lazy(config, prefix), f"{prefix}latte_config": tensor}
    assert detect_latte(weights, prefix=prefix) == config
    broken = {**weights, f"{prefix}latte_config": tensor[:9]}
    with pytest.raises(CorruptCheckpointError, match="latte_config"):
        detect_latte(broken, prefix=prefix)


def test_without_a_word_on_it_the_variant_is_1() -> None:
    late = lazy(LatteConfig.preset("Latte-S/2", variant=2))
    assert detect_latte(late) == LatteConfig.preset("Latte-S/2", variant=1)


@pytest.mark.parametrize("variant", [3, 4])
def test_blocks_with_two_attentions_ask_for_their_variant(variant: int) -> None:
    weights = lazy(LatteConfig.preset("Latte-S/2", variant=variant))
    with pytest.raises(WeightMismatchError, match=r"two attentions.*variants 3 and 4"):
        detect_latte(weights)
    assert detect_latte(weights, config={"variant": variant})


def test_blocks_with_one_attention_are_no_variant_3() -> None:
    with pytest.raises(WeightMismatchError, match=r"one attention.*variant 3"):
        detect_latte(lazy(LatteConfig()), config={"variant": 3})


def test_head_count_that_is_unknown_is_asked_for_by_name() -> None:
    with pytest.raises(WeightMismatchError, match="num_heads"):
        detect_latte(lazy(tiny()))
    assert detect_latte(lazy(tiny()), config=HEADS) == tiny()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 6}, "depth 6, but the weights have 4"),
        ({"hidden_size": 32}, "hidden_size 32"),
        ({"num_classes": 101}, "num_classes 101, but the weights have 5"),
        (NO_CLASSES, "conditioning 'none', but the weights have 'class'"),
        ({"patch_size": 4, "input_size": 16}, "patch_size 4"),
        ({"learn_sigma": False}, "learn_sigma False"),
        ({"num_frames": 16}, "num_frames 16, but the weights have 3"),
        ({"input_size": 32}, "input_size 32, but the weights have 8"),
        ({"mlp_ratio": 2.0}, "mlp_ratio 2.0, but the weights have 4.0"),
        ({"mlp_ratio": "x"}, "mlp_ratio 'x'"),
        ({"injection": "tokens"}, "injection 'tokens'"),
        ({"temporal_positions": "rotary"}, "temporal_positions 'rotary'"),
        (IMAGE, "has_temporal False|num_frames 1,"),
        ({"tubelet_size": 3}, "tubelet_size 3"),
        ({"class_dropout_prob": 0}, "num_classes 5, but the weights have 6"),
    ],
    ids=str,
)
def test_config_of_another_model_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(WeightMismatchError, match=words):
        detect_latte(lazy(tiny()), config=tiny_latte_config(**change))


@pytest.mark.parametrize(
    "change",
    [{"stray": 1}, {"num_heads": 0}, {"in_channels": "4"}, {"extras": 3}, {"input_size": None}],
    ids=str,
)
def test_unusable_settings_are_the_callers_or_the_files_error(change: dict[str, Any]) -> None:
    weights = lazy(tiny())
    with pytest.raises((InvalidInputError, WeightMismatchError)):
        detect_latte(weights, config={**HEADS, **change})
    with pytest.raises((CorruptCheckpointError, WeightMismatchError)):
        detect_latte(weights, {"config": json.dumps({**HEADS, **change})})


@pytest.mark.parametrize("rows", [11, 102, 1000])
def test_dit_of_other_classes_is_not_taken_for_a_latte(rows: int) -> None:
    config = LatteConfig.preset(
        "Latte-S/2", conditioning="class", num_classes=rows - 1, has_temporal=False, num_frames=1
    )
    weights = lazy(config)
    assert detect_latte(weights) is None
    assert detect_latte(weights, config={"has_temporal": False}) == config


def test_odd_number_of_blocks_is_an_unfinished_file() -> None:
    weights = {key: value for key, value in lazy(LatteConfig()).items() if "blocks.27." not in key}
    with pytest.raises(WeightMismatchError, match=r"27 blocks.*missing"):
        detect_latte(weights)


def test_more_blocks_than_any_model_has_are_refused_at_once() -> None:
    weights = {**lazy(LatteConfig()), "blocks.999999.attn.proj.bias": Known((1152,), 1)}
    with pytest.raises(CorruptCheckpointError, match="depth"):
        detect_latte(weights)


def test_released_video_model_without_its_temporal_table_is_not_taken_for_an_image_model() -> None:
    weights = lazy(LatteConfig.preset("Latte-XL/2", conditioning="class", num_classes=101))
    del weights["temp_embed"]
    assert detect_latte(weights) is None


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_other_families_are_not_latte(family: str) -> None:
    shapes: Mapping[str, Any] = {
        key: Known(shape, 2 if key in TABLES else 1) for key, shape in FAMILY_NAMES[family].items()
    }
    found = detect_latte(shapes)
    assert (found is not None) == (family in ("LATTE_CLASS", "DIT"))
    assert found is None or found.has_temporal == (family == "LATTE_CLASS")


@pytest.mark.parametrize(
    "more", ["blocks.0.cross_attn.q_linear.weight", "blocks.0.cross_attn.kv_linear.bias"]
)
def test_pixart_with_its_cross_attention_is_not_latte(more: str) -> None:
    assert detect_latte({**lazy(LatteConfig()), more: Known((8, 8), 1)}) is None


def test_each_detector_knows_its_own_model_alone() -> None:
    weights = tiny_latte().state_dict()
    assert detect_t2v(weights, config=HEADS) is None
    assert detect_latte(weights, config=HEADS) == tiny()
