"""The settings of a Latte: defaults, presets, the reference's names, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from latte_test_support.tiny.latte import NO_CLASSES, tiny_latte_config

from latte_core.config.latte import (
    INTEGER_RANGES,
    PATCH_SIZES,
    PRESETS,
    SIZES,
    XL_DEPTH_OF_TWO_ATTENTIONS,
    LatteConfig,
)
from latte_core.errors import InvalidInputError


def test_defaults_are_the_released_unconditional_model() -> None:
    config = LatteConfig()
    assert config == LatteConfig.preset("Latte-XL/2") == LatteConfig.from_dict({"extras": 1})
    assert (config.table_side, config.out_channels, config.num_units) == (16, 8, 14)
    assert (config.num_labels, config.has_null_class) == (0, False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", PATCH_SIZES)
def test_preset_has_depth_width_heads_and_patch(size: str, patch: int) -> None:
    config = LatteConfig.preset(f"Latte-{size}/{patch}")
    assert (config.depth, config.hidden_size, config.num_heads) == SIZES[size]
    assert config.patch_size == patch
    assert LatteConfig.preset(f"LatteIMG-{size}/{patch}") == config


def test_there_are_twelve_presets() -> None:
    assert len(set(PRESETS)) == 12


@pytest.mark.parametrize("variant", [3, 4])
def test_two_attentions_make_xl_shorter_and_nothing_else(variant: int) -> None:
    assert LatteConfig.preset("Latte-XL/2", variant=variant).depth == XL_DEPTH_OF_TWO_ATTENTIONS
    assert LatteConfig.preset("Latte-XL/2", variant=variant, depth=28).depth == 28
    assert LatteConfig.preset("Latte-L/2", variant=variant).depth == 24


def test_variant_4_gives_half_the_heads_to_each_attention() -> None:
    assert LatteConfig.preset("Latte-XL/2", variant=4).attention_heads == 8
    assert LatteConfig.preset("Latte-XL/2", variant=3).attention_heads == 16


def test_settings_of_the_reference_are_understood() -> None:
    # configs/ucf101/ucf101_sample.yaml, as far as it shapes the network
    reference = {"model": "LatteIMG-XL/2", "image_size": 512, "num_frames": 16, "num_classes": 101,
                 "extras": 2, "learn_sigma": True, "attention_mode": "math", "frame_interval": 3,
                 "fixed_spatial": False, "attention_bias": True}  # fmt: skip
    config = LatteConfig.from_dict(reference)
    assert (config.input_size, config.conditioning, config.num_classes) == (64, "class", 101)
    assert (config.null_class, config.num_labels) == (101, 102)
    assert LatteConfig.from_dict({"extras": 2}).num_classes == 1000
    assert LatteConfig.from_dict({"extras": 1, "num_classes": 101}) == LatteConfig()
    assert LatteConfig.from_dict({"extras": 78}).conditioning == "clip_text"


@pytest.mark.parametrize(
    "changes", [{}, NO_CLASSES, {"variant": 4}, {"temporal_positions": "rotary"}]
)
def test_json_gives_the_same_config_back(changes: dict[str, Any]) -> None:
    config = LatteConfig.from_dict(tiny_latte_config(**changes))
    text = json.dumps(config.to_dict())
    assert LatteConfig.from_dict(json.loads(text)) == config


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "odd depth": ({"depth": 3}, "depth = 3.*as many spatial"),
    "odd depth of variant 2": ({"depth": 5, "variant": 2}, "depth = 5"),
    "odd heads of variant 4": (
        {"variant": 4, "num_heads": 3, "hidden_size": 24},
        "num_heads = 3, but variant 4",
    ),
    "width and heads": ({"num_heads": 3}, "hidden_size 16 with 3 heads"),
    "width of no table": ({"hidden_size": 18}, "hidden_size 18"),
    "patch": ({"input_size": 9}, "input_size 9 with patch_size 2"),
    "tubelets": ({"tubelet_size": 2}, "num_frames 3 with tubelet_size 2"),
    "classes without conditioning": ({"conditioning": "none"}, "'none' with num_classes = 5"),
    "conditioning without classes": ({"num_classes": 0}, "'class' with num_classes = 0"),
    "odd heads that turn": (
        {"temporal_positions": "rotary", "hidden_size": 20, "num_heads": 4},
        "rotary.*5 wide",
    ),
    "image model of variant 3": ({"has_temporal": False, "variant": 3}, "has_temporal = false"),
    "image model of tubelets": ({"has_temporal": False, "tubelet_size": 3}, "tubelet_size 3"),
    "conditioning": ({"conditioning": "text"}, "'text'.*none, class, clip_text"),
    "injection": ({"injection": "cross"}, "'cross'.*adaln, tokens"),
    "positions": ({"temporal_positions": 1}, "temporal_positions = 1"),
    "ratio": ({"mlp_ratio": 0}, "mlp_ratio = 0"),
    "ratio of text": ({"mlp_ratio": "4"}, "mlp_ratio = '4'"),
    "ratio that is no number": ({"mlp_ratio": float("nan")}, "mlp_ratio = nan"),
    "dropout": ({"class_dropout_prob": 1.0}, "class_dropout_prob = 1.0"),
    "variance": ({"learn_sigma": 1}, "learn_sigma = 1"),
    "time": ({"has_temporal": "no"}, "has_temporal = 'no'"),
    "unknown key": ({"num_head": 2}, "unknown key num_head"),
    "extras": ({"extras": 3}, "extras = 3.*1 .unconditional."),
    "true extras": ({"extras": True}, "extras = True"),
    "extras that contradict": ({"extras": 1}, "'class'.*'none'"),
    "pixels": ({"image_size": 100}, "image_size = 100.*multiple of 8"),
    "two sizes": ({"image_size": 256}, "input_size as 8 and.*32"),
    "size that is none": ({"model": "Latte-XXL/2"}, "'Latte-XXL/2'.*Latte-S/2"),
    "patch that is none": ({"model": "Latte-XL/3"}, "'Latte-XL/3'"),
}


@pytest.mark.parametrize("case", BAD)
def test_config_without_a_meaning_is_refused_by_name(case: str) -> None:
    changes, words = BAD[case]
    with pytest.raises(InvalidInputError, match=words):
        LatteConfig.from_dict(tiny_latte_config(**changes))


@pytest.mark.parametrize("name", INTEGER_RANGES)
@pytest.mark.parametrize("value", [-1, 10**9, 1.5, "16", True, None, [2]])
def test_whole_numbers_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=name):
        LatteConfig.from_dict(tiny_latte_config(**{name: value}))
