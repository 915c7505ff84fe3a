"""A VAE is read under every name it is published in, and refused from its header where it is not
one of Latte's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import vae as tiny_vae
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint import identify
from latte_core.checkpoint.recognition.families import Family
from latte_core.checkpoint.recognition.identify import require_vae
from latte_core.errors import UnknownArchitectureError
from latte_core.pipelines.classes.vae import open_vae
from latte_core.vae.config import VaeConfig
from latte_core.vae.frames import VideoVAE
from latte_core.vae.layout import vae_layout

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
ORIGINAL = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}
SPELLINGS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "resnets.": "block.",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}


def old_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the names that diffusers had first."""
    return renamed(tensors, {f".{new}.": f".{old}." for new, old in OLD.items()})


def renamed(tensors: dict[str, Tensor], parts: dict[str, str]) -> dict[str, Tensor]:
    """Replace parts of names."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for new, old in parts.items():
            name = name.replace(new, old)
        result[name] = value
    return result


def original(tensors: dict[str, Tensor], levels: int = 3) -> dict[str, Tensor]:
    """Return the names of latent diffusion, attention as 1x1 convolutions."""
    result: dict[str, Tensor] = {}
    attention = {f"attn_1.{new}.": f"attn_1.{old}." for new, old in ORIGINAL.items()}
    for name, value in renamed(tensors, {**SPELLINGS, **attention}).items():
        name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
        is_matrix = "attn_1" in name and value.dim() == 2
        result[name] = value[:, :, None, None].contiguous() if is_matrix else value
    return result


def with_training(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add what a training checkpoint of a VAE holds beside it."""
    return {**original(tensors), "loss.logvar": torch.zeros(1), "model_ema.decay": torch.ones(1)}


def behind_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put an all-in-one file's prefix in front."""
    return {f"first_stage_model.{name}": value for name, value in original(tensors).items()}


def convolutions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep diffusers' names, with attention as 1x1 convolutions."""
    return {
        name: value[:, :, None, None].contiguous()
        if "attentions" in name and value.dim() == 2
        else value
        for name, value in tensors.items()
    }


NAMES = [original, old_attention, with_training, behind_prefix, convolutions]


@pytest.mark.parametrize("spell", NAMES)
def test_a_single_file_is_read_under_any_names_and_inspect_says_so(
    tmp_path: Path, spell: Any
) -> None:
    tensors = tiny_vae.vae_tensors(temporal=False)
    path = tmp_path / "vae-ft-mse-840000-ema-pruned.safetensors"
    save_file(spell(tensors), path)

    vae = open_vae(path, torch.float32, torch.device("cpu"))

    assert identify(path).family is Family.IMAGE_VAE
    found = vae.module.state_dict()
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("temporal", [False, True], ids=["image", "temporal"])
@pytest.mark.parametrize(
    "change", [{}, {"layers_per_block": 2, "block_out_channels": [32, 64, 96]}], ids=["one", "two"]
)
def test_the_layout_is_that_of_diffusers(temporal: bool, change: dict[str, Any]) -> None:
    module = tiny_vae.make_reference(temporal=temporal, **change)
    config = VaeConfig.from_dict(tiny_vae.vae_config(temporal=temporal, **change))

    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}

    assert vae_layout(config) == expected


def write_vae(folder: Path, name: str, config: dict[str, Any] | None, metadata: Any = None) -> Path:
    """Write an image VAE in original names, with or without a config beside it."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    save_file(original(tiny_vae.vae_tensors(temporal=False)), folder / name, metadata)
    return folder / name


PUBLISHED = "diffusion_pytorch_model.safetensors"
XL = tiny_vae.vae_config(temporal=False, scaling_factor=0.13025)
XL_FILES: dict[str, tuple[str, str, dict[str, Any] | None, Any]] = {
    "its scale": ("vae", PUBLISHED, XL, None),
    "its file": ("vae", "sdxl_vae.safetensors", None, None),
    "its file without sd": ("vae", "xl-vae_v10.safetensors", None, None),
    "its folder": ("sdxl-vae-fp16-fix", PUBLISHED, None, None),
    "its metadata": (
        "vae",
        "vae.safetensors",
        None,
        {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"},
    ),
}


@pytest.mark.parametrize("case", XL_FILES.values(), ids=XL_FILES)
def test_r10_the_vae_of_stable_diffusion_xl_is_refused_by_name(tmp_path: Path, case: Any) -> None:
    folder, name, config, metadata = case
    path = write_vae(tmp_path / folder, name, config, metadata)

    with pytest.raises(UnknownArchitectureError, match="Stable Diffusion XL"):
        require_vae(path)
    assert identify(path).family is Family.OTHER_VAE


def test_r10_a_vae_of_another_scale_is_refused_with_both_numbers(tmp_path: Path) -> None:
    config = tiny_vae.vae_config(temporal=False, scaling_factor=0.3)
    path = write_vae(tmp_path / "vae", PUBLISHED, config)

    with pytest.raises(UnknownArchitectureError, match=r"0\.3\b.*0\.18215"):
        require_vae(path)
    with pytest.raises(UnknownArchitectureError, match=r"0\.3\b.*0\.18215"):
        VideoVAE.from_folder(path.parent, read=lambda _: {})


def test_a_config_with_latte_s_scale_wins_over_a_name(tmp_path: Path) -> None:
    config = tiny_vae.vae_config(temporal=False)

    require_vae(write_vae(tmp_path / "SDXL", PUBLISHED, config))


def test_a_config_of_a_transformer_beside_a_vae_is_not_the_vae_s(tmp_path: Path) -> None:
    require_vae(write_vae(tmp_path, "vae.safetensors", {"_class_name": "LatteT2V"}))


@pytest.mark.parametrize("spell", [original, old_attention])
def test_r11_a_vae_that_lacks_a_weight_is_refused_from_its_header(
    tmp_path: Path, spell: Any
) -> None:
    tensors = spell(tiny_vae.vae_tensors(temporal=False))
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, tmp_path / "vae.safetensors")

    with pytest.raises(UnknownArchitectureError, match=r"decoder\.conv_out\.bias"):
        require_vae(tmp_path / "vae.safetensors")
