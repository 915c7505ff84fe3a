"""What the nodes do without ComfyUI around them, and the parts that need none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from latte_test_support.pack import load_pack

PACK = load_pack()


def part(name: str) -> ModuleType:
    """Return a module of the pack."""
    import importlib

    return importlib.import_module(f"{PACK.__name__}.{name}")


def call(node: str, **inputs: Any) -> tuple[Any, ...]:
    """Run a node."""
    cls = PACK.NODE_CLASS_MAPPINGS[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)


def test_the_starters_are_offered_first_without_comfyui() -> None:
    kinds = PACK.NODE_CLASS_MAPPINGS["LatteModelLoader"].INPUT_TYPES()["required"]["model_name"]
    assert kinds[0] == ["starter", "class-starter"]


@pytest.mark.parametrize(("frames", "width", "height"), [(1, 64, 64), (7, 128, 64), (17, 16, 512)])
def test_empty_latent_has_one_entry_per_frame(frames: int, width: int, height: int) -> None:
    (latent,) = call("LatteEmptyLatent", width=width, height=height, frames=frames)
    assert latent["samples"].shape == (frames, 4, height // 8, width // 8)
    assert not latent["samples"].any()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"width": 100, "height": 64, "frames": 4}, ["width", "96 and 112"]),
        ({"width": 64, "height": 0, "frames": 4}, ["height"]),
        ({"width": 64, "height": 64, "frames": 0}, ["frames", "4096"]),
        ({"width": 64, "height": 64, "frames": 2**31}, ["frames"]),
        ({"width": 8192, "height": 8192, "frames": 4096}, ["GiB", "fewer"]),
    ],
)
def test_empty_latent_explains_what_it_cannot_make(
    inputs: dict[str, int], words: list[str]
) -> None:
    error = part("latte_core.errors").InvalidInputError
    with pytest.raises(error) as caught:
        call("LatteEmptyLatent", **inputs)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_starter_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = part("nodes.host.base.paths")
    monkeypatch.setattr(paths, "STARTER_FOLDER", tmp_path)
    with pytest.raises(part("latte_core.errors").InvalidInputError, match="Install the pack again"):
        paths.locate("starter", "diffusion_models", "model_name")


def test_config_survives_as_a_tensor() -> None:
    detection = part("nodes.host.base.detection")
    config_class = part("latte_core.config.t2v").LatteT2VConfig
    config = config_class(
        num_layers=3, num_attention_heads=5, attention_head_dim=32, cross_attention_dim=160
    )
    assert detection.config_from_tensor(detection.config_to_tensor(config)) == config
    with pytest.raises(part("latte_core.errors").WeightMismatchError, match="latte_config"):
        detection.config_from_tensor(torch.zeros(8, dtype=torch.uint8))


def tiny_weights(config: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return weights of a Latte on the meta device."""
    model_class = part("latte_core.model.t2v.transformer").LatteT2V
    with torch.device("meta"):
        weights = model_class(config).state_dict()
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_detection_reads_names_and_sizes(prefix: str) -> None:
    config = part("latte_core.config.t2v").LatteT2VConfig(num_layers=2)
    weights = tiny_weights(config, prefix)
    found = part("nodes.host.base.detection").detect(weights, prefix)
    assert found["image_model"] == "latte_t2v"
    assert found["num_layers"] == 2
    assert found["num_attention_heads"] == 16
    assert "num_res_blocks" not in found


@pytest.mark.parametrize(
    "names",
    [
        ["blocks.0.attn.qkv.weight", "blocks.0.adaLN_modulation.1.weight", "temp_embed"],
        ["transformer_blocks.0.attn1.to_q.weight", "adaln_single.linear.weight"],
        ["input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"],
        ["patchify_proj.weight", "transformer_blocks.0.attn1.to_q.weight"],
        [],
    ],
)
def test_detection_leaves_other_models_alone(names: list[str]) -> None:
    weights = {name: torch.empty(4, 4, device="meta") for name in names}
    assert part("nodes.host.base.detection").detect(weights) is None


def test_an_incomplete_file_is_refused_by_name() -> None:
    detection = part("nodes.host.base.detection")
    config = part("latte_core.config.t2v").LatteT2VConfig(num_layers=1)
    weights = tiny_weights(config)
    detection.check_complete(weights, config)
    del weights["proj_out.bias"]
    error = part("latte_core.errors").WeightMismatchError
    with pytest.raises(error, match=r"proj_out\.bias"):
        detection.check_complete(weights, config)
    weights["proj_out.bias"] = torch.empty(3, device="meta")
    with pytest.raises(error, match="3 rows"):
        detection.check_complete(weights, config)


def test_importing_the_pack_registers_nothing_outside_comfyui() -> None:
    assert "comfy" not in sys.modules
