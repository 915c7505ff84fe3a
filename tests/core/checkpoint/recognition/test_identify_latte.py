"""Naming class-conditional and unconditional Lattes and DiTs for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes, write_hollow
from latte_test_support.tiny.latte import (
    IMAGE,
    TEXT,
    tiny_latte_config,
    tiny_latte_weights,
    write_latte_folder,
)

from latte_core.checkpoint import Family, identify, require_family
from latte_core.checkpoint.recognition.titles import nearest_size, size_of, title_of
from latte_core.config.latte import PRESETS, LatteConfig
from latte_core.errors import UnknownArchitectureError
from latte_core.model.latte.transformer import Latte

CLASSES: dict[str, Any] = {"conditioning": "class", "num_classes": 101}
IMAGENET: dict[str, Any] = {"conditioning": "class", "num_classes": 1000, **IMAGE}

# file -> (preset, changes, sentence, tensors, parameters of docs/model.md 1)
PUBLISHED: dict[str, tuple[str, dict[str, Any], str, int, int]] = {
    "ffs.safetensors": (
        "XL/2",
        {},
        "This is an unconditional Latte-XL/2. By its name it was trained on FaceForensics. "
        "Use Latte Model Loader with Latte Unconditional.",
        292,
        673_994_912,
    ),
    "skytimelapse.safetensors": (
        "XL/2",
        {},
        "This is an unconditional Latte-XL/2. By its name it was trained on SkyTimelapse. "
        "Use Latte Model Loader with Latte Unconditional.",
        292,
        673_994_912,
    ),
    "taichi-hd.safetensors": (
        "XL/2",
        {},
        "This is an unconditional Latte-XL/2. By its name it was trained on Taichi-HD. "
        "Use Latte Model Loader with Latte Unconditional.",
        292,
        673_994_912,
    ),
    "ucf101.safetensors": (
        "XL/2",
        CLASSES,
        "This is a class-conditional Latte-XL/2 with 101 classes. By its name it was trained on "
        "UCF101. Use Latte Model Loader with Latte Class Label.",
        293,
        674_112_416,
    ),
    "ffs_s_2.safetensors": (
        "S/2",
        {},
        "This is an unconditional Latte-S/2. By its name it was trained on FaceForensics. "
        "Use Latte Model Loader with Latte Unconditional.",
        132,
        32_585_120,
    ),
    "ffs_b_2.safetensors": (
        "B/2",
        {},
        "This is an unconditional Latte-B/2. By its name it was trained on FaceForensics. "
        "Use Latte Model Loader with Latte Unconditional.",
        132,
        129_755_936,
    ),
    "ffs_l_2.safetensors": (
        "L/2",
        {},
        "This is an unconditional Latte-L/2. By its name it was trained on FaceForensics. "
        "Use Latte Model Loader with Latte Unconditional.",
        252,
        457_094_176,
    ),
    "clip.safetensors": (
        "XL/2",
        {"conditioning": "clip_text"},
        "This is a CLIP-text Latte-XL/2. Use latte_core.load_transformer in Python; no node gives "
        "it CLIP text.",
        294,
        673_994_912 + 59_136 * 1152 + 1152,
    ),
    "DiT-XL-2-256x256.safetensors": (
        "XL/2",
        IMAGENET,
        "This is a DiT-XL/2 image model with 1000 classes. Use Latte Model Loader with Latte Class "
        "Label; it makes single images, no video.",
        292,
        673_994_912 - 16 * 1152 + 1001 * 1152,
    ),
}


def shapes_of(config: LatteConfig) -> dict[str, tuple[int, ...]]:
    model = Latte(config, device="meta")
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_file_is_named_with_size_data_and_node(tmp_path: Path, name: str) -> None:
    preset, changes, sentence, tensors, parameters = PUBLISHED[name]
    config = LatteConfig.preset(f"Latte-{preset}", **changes)
    found = identify(write_hollow(tmp_path / name, shapes_of(config), {}))
    assert found.sentence == sentence
    assert found.family is (Family.LATTE_CLASS if config.has_temporal else Family.DIT)
    assert (found.details["tensors"], found.details["parameters"]) == (tensors, parameters)
    assert found.details["heads"] == config.num_heads
    assert found.details["blocks"] == config.depth
    assert found.details["pixels"] == 256
    assert found.details.get("classes", 0) == config.num_classes
    assert found.details.get("frames") == (16 if config.has_temporal else None)


@pytest.mark.parametrize(
    ("name", "changes"), [("ucf101.pt", {}), ("ffs.pt", CLASSES), ("mine.pt", CLASSES)]
)
def test_name_that_does_not_fit_the_model_says_nothing(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    shapes = shapes_of(LatteConfig.preset("Latte-S/2", **changes))
    assert "trained on" not in identify(write_hollow(tmp_path / name, shapes, {})).sentence


@pytest.mark.parametrize("preset", PRESETS)
def test_title_tells_every_published_size(preset: str) -> None:
    assert title_of(LatteConfig.preset(preset)) == f"an unconditional {preset}"


@pytest.mark.parametrize("variant", [2, 3, 4])
def test_title_tells_the_variant(variant: int) -> None:
    config = LatteConfig.preset("Latte-XL/2", variant=variant, **CLASSES)
    expected = f"a class-conditional Latte-XL/2 of variant {variant} with 101 classes"
    assert title_of(config) == expected


def test_size_that_was_never_published_is_told_in_numbers() -> None:
    config = LatteConfig(depth=30)
    assert size_of(config) == "Latte (30 blocks, width 1152, patch 2)"
    assert nearest_size(config) == "Latte-XL: 28 blocks, width 1152, 16 heads"
    assert nearest_size(LatteConfig(hidden_size=700, num_heads=7)).startswith("Latte-B:")


def test_variant_in_the_metadata_is_told(tmp_path: Path) -> None:
    config = LatteConfig.preset("Latte-S/2", variant=2)
    metadata = {"config": json.dumps(config.to_dict())}
    found = identify(write_hollow(tmp_path / "w.safetensors", shapes_of(config), metadata))
    assert found.title == "an unconditional Latte-S/2 of variant 2"
    assert found.details["variant"] == 2


def test_rotary_video_model_without_a_table_is_no_dit(tmp_path: Path) -> None:
    config = LatteConfig.preset("Latte-S/2", temporal_positions="rotary", **CLASSES)
    metadata = {"config": json.dumps(config.to_dict())}
    found = identify(write_hollow(tmp_path / "w.safetensors", shapes_of(config), metadata))
    assert found.family is Family.LATTE_CLASS
    assert found.title == "a class-conditional Latte-S/2 with 101 classes"


def test_what_hinders_loading_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes(tiny_latte_weights()))
    found = identify(path)
    assert found.family is Family.LATTE_CLASS
    assert "Give num_heads in a config" in found.sentence
    (tmp_path / "config.json").write_text(json.dumps(tiny_latte_config(depth=6)))
    assert "depth 6, but the weights have 4" in identify(path).sentence
    (tmp_path / "config.json").write_text(json.dumps(tiny_latte_config()))
    assert identify(path).title == (
        "a class-conditional Latte (4 blocks, width 16, patch 2) with 5 classes"
    )


def test_config_among_the_tensors_is_not_missed_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "saved.pt"
    text = torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)
    path.write_bytes(torch_bytes({**tiny_latte_weights(), "latte_config": text}))
    found = identify(path)
    assert found.family is Family.LATTE_CLASS
    assert found.sentence.endswith("Use Latte Model Loader with Latte Class Label or Latte Uncondit"
                                   "ional.")  # fmt: skip
    assert "config" not in found.details


def test_text_model_of_another_width_is_named(tmp_path: Path) -> None:
    folder = write_latte_folder(tmp_path / "t", **TEXT)
    assert identify(folder).title == "a CLIP-text Latte (4 blocks, width 16, patch 2)"


def test_folder_with_a_transformer_in_it_is_what_the_transformer_is(tmp_path: Path) -> None:
    write_latte_folder(tmp_path / "mine" / "transformer")
    found = identify(tmp_path / "mine")
    assert found.name == "mine"
    assert found.family is Family.LATTE_CLASS
    require_family(tmp_path / "mine", Family.LATTE_CLASS, "a class model")


def test_cut_class_model_is_named_and_said_to_be_cut(tmp_path: Path) -> None:
    shapes = shapes_of(LatteConfig.preset("Latte-S/2"))
    path = write_hollow(tmp_path / "ffs.safetensors", shapes, {})
    with path.open("rb+") as handle:
        handle.truncate(path.stat().st_size - 3)
    found = identify(path)
    assert not found.is_whole
    assert found.sentence.startswith("This is an unconditional Latte-S/2, but it is incomplete")


def test_class_model_in_the_place_of_another_part_is_named_with_its_nodes(tmp_path: Path) -> None:
    shapes = shapes_of(LatteConfig.preset("Latte-S/2", **CLASSES))
    path = write_hollow(tmp_path / "w.safetensors", shapes, {})
    with pytest.raises(UnknownArchitectureError, match=r"Latte-S/2 with 101 classes.*Class Label"):
        require_family(path, Family.IMAGE_VAE, "a VAE")
