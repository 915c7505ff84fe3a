"""Recognising a LatteT2V by names and first dimensions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from latte_test_support.malformed import FAMILY_NAMES
from latte_test_support.tiny.t2v import tiny_config, tiny_weights

from latte_core.checkpoint import detect_t2v, drop_derived, select_model
from latte_core.checkpoint.recognition.layout import t2v_layout, t2v_modules
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import CorruptCheckpointError, InvalidInputError, WeightMismatchError
from latte_core.model.t2v.transformer import LatteT2V

RELEASED = LatteT2VConfig()


class FirstOnly:
    """A shape of which only the first dimension may be looked at, as of a packed weight."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first = shape[0]

    @property
    def shape(self) -> FirstOnly:
        return self

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: object) -> int:
        assert index == 0, "only the first dimension may be read"
        return self.first

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("only the first dimension may be read")


def lazy(config: LatteT2VConfig, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{key}": FirstOnly(shape) for key, shape in t2v_layout(config).items()}


def test_layout_of_latte_1_has_967_names_and_the_published_size() -> None:
    layout = t2v_layout(RELEASED)
    numbers = sum(torch.Size(shape).numel() for shape in layout.values())
    assert len(layout) == 967
    assert numbers == 1_057_246_880


def test_layout_equals_the_model() -> None:
    config = LatteT2VConfig.from_dict(tiny_config(num_layers=3, patch_size=1))
    model = LatteT2V(config, device="meta")
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == t2v_layout(config)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_released_model_is_found_from_names_and_first_dimensions_alone(prefix: str) -> None:
    other = {"vae.decoder.conv_in.weight": FirstOnly((512,))}
    assert detect_t2v({**lazy(RELEASED, prefix), **other}, prefix=prefix) == RELEASED


def test_old_copy_with_its_unused_buffer_is_found() -> None:
    assert detect_t2v({**lazy(RELEASED), "caption_projection.y_embedding": FirstOnly((120,))})


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_other_families_are_not_latte(family: str) -> None:
    shapes = {key: FirstOnly(shape) for key, shape in FAMILY_NAMES[family].items()}
    assert detect_t2v(shapes) is None


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("channels", [4, 8])
def test_patch_and_channels_follow_from_the_output_rows(patch: int, channels: int) -> None:
    config = LatteT2VConfig(num_layers=3, patch_size=patch, out_channels=channels)
    assert detect_t2v(lazy(config)) == config


def test_config_in_the_metadata_is_honoured() -> None:
    config = LatteT2VConfig.from_dict(tiny_config())
    text = json.dumps(config.to_dict())
    assert detect_t2v(lazy(config), {"config": text}) == config
    nested = json.dumps({"transformer": config.to_dict(), "vae": {}})
    assert detect_t2v(lazy(config), {"config": nested}) == config


def test_given_settings_win_over_the_metadata_key_by_key() -> None:
    config = LatteT2VConfig.from_dict(tiny_config())
    metadata = {"config": json.dumps(config.to_dict())}
    found = detect_t2v(lazy(config), metadata, config={"sample_size": 16})
    assert found == LatteT2VConfig.from_dict(tiny_config(sample_size=16))
    assert detect_t2v(lazy(config), metadata, config=config) == config


@pytest.mark.parametrize(
    "part", [{"num_attention_heads": 2}, {"attention_head_dim": 8}, {"num_attention_heads": 4}]
)
def test_heads_and_their_width_complete_each_other(part: dict[str, int]) -> None:
    weights = lazy(LatteT2VConfig.from_dict(tiny_config()))
    found = detect_t2v(weights, config=part)
    assert found is not None
    assert found.hidden_size == 16
    assert part.items() <= found.to_dict().items()


def test_legacy_keys_are_ignored_and_unknown_ones_named() -> None:
    config = LatteT2VConfig.from_dict(tiny_config())
    legacy = tiny_config(video_length=16, norm_num_groups=32, _diffusers_version="0.24")
    assert detect_t2v(lazy(config), config=legacy) == config
    with pytest.raises(InvalidInputError, match="time_embed_dim"):
        detect_t2v(lazy(config), config=tiny_config(time_embed_dim=3))
    with pytest.raises(CorruptCheckpointError, match="time_embed_dim"):
        detect_t2v(lazy(config), {"config": json.dumps(tiny_config(time_embed_dim=3))})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_layers": 3}, "layers 3, but the weights have 2"),
        ({"num_attention_heads": 4, "cross_attention_dim": 32}, "hidden size 32"),
        ({"patch_size": 4}, "output rows 128, but the weights have 32"),
        ({"out_channels": 4}, "output rows"),
    ],
)
def test_config_of_another_size_is_refused(change: dict[str, int], words: str) -> None:
    weights = lazy(LatteT2VConfig.from_dict(tiny_config()))
    with pytest.raises(WeightMismatchError, match=words):
        detect_t2v(weights, config=tiny_config(**change))


def test_head_count_that_does_not_divide_the_width_asks_for_a_config() -> None:
    config = LatteT2VConfig(
        num_attention_heads=3, attention_head_dim=4, cross_attention_dim=12, num_layers=1
    )
    with pytest.raises(WeightMismatchError, match=r"config\.json"):
        detect_t2v(lazy(config))


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "ema.",
        "model.",
        "transformer.",
        "model.diffusion_model.",
        "module._orig_mod.",
        "ema.module.",
        "model.diffusion_model.module.",
    ],
)
def test_known_prefixes_are_stripped_alone_and_nested(prefix: str) -> None:
    weights = tiny_weights()
    selection = select_model({f"{prefix}{key}": None for key in weights})
    assert selection is not None
    assert set(selection.names) == set(weights)
    assert selection.prefix == prefix.replace("_orig_mod.", "")
    assert all(value == f"{prefix}{key}" for key, value in selection.names.items())


def test_blocks_of_a_unet_behind_an_unknown_prefix_are_no_transformer() -> None:
    blocks = [key for key in tiny_weights() if "transformer_blocks." in key]
    names = {f"down_blocks.0.attentions.0.{key}": None for key in blocks}
    assert select_model(names) is None


def test_averaged_weights_win_over_plain_ones_and_the_rest_is_counted() -> None:
    weights = tiny_weights()
    names = [f"{prefix}{key}" for prefix in ("model.", "ema.") for key in weights]
    selection = select_model([*names, "vae.encoder.conv_in.weight", "stray"])
    assert selection is not None
    assert selection.is_ema
    assert set(selection.names) == {*weights, "stray"}
    assert len(selection.ignored) == len(weights) + 1


def test_parts_beside_bare_names_are_ignored() -> None:
    selection = select_model([*tiny_weights(), "vae.decoder.conv_in.weight"])
    assert selection is not None
    assert selection.ignored == ("vae.decoder.conv_in.weight",)


def test_names_inside_compiled_blocks_are_restored() -> None:
    weights = tiny_weights()
    names = [key.replace("blocks.0.", "blocks.0._orig_mod.") for key in weights]
    selection = select_model(names)
    assert selection is not None
    assert set(selection.names) == set(weights)


def test_name_that_is_there_compiled_and_plain_is_refused() -> None:
    weights = tiny_weights()
    with pytest.raises(WeightMismatchError, match="twice"):
        select_model([*weights, *(f"_orig_mod.{key}" for key in weights)])


def test_only_derived_buffers_are_dropped() -> None:
    weights = tiny_weights()
    old = {**weights, "caption_projection.y_embedding": torch.zeros(120, 24)}
    assert set(drop_derived(old)) == set(weights)


def test_modules_are_those_with_weights() -> None:
    modules = t2v_modules(RELEASED)
    assert len(modules) == 28 * 16 + 7
    assert "temporal_transformer_blocks.27.attn1.to_out.0" in modules
