"""VAEs from folders, files and tensors, and what is refused as one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import vae as tiny_vae
from latte_test_support.tiny.text import read_safetensors
from latte_test_support.vae_cases import BOTH, SAME, make_vae, random_frames, random_latents
from torch import Tensor

from latte_core.errors import (
    CorruptCheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    MissingDependencyError,
    UnknownArchitectureError,
    WeightMismatchError,
)
from latte_core.vae.config import VaeConfig
from latte_core.vae.frames import VideoVAE


def test_another_scaling_factor_of_the_config_is_used() -> None:
    tensors = tiny_vae.vae_tensors(temporal=False)
    config = tiny_vae.vae_config(temporal=False, scaling_factor=0.5)
    other = VideoVAE.from_tensors(tensors, config)
    latents = random_latents()

    expected = make_vae(False).decode(latents * (0.18215 / 0.5))

    assert other.scaling_factor == 0.5
    assert (other.decode(latents) - expected).abs().max() <= SAME


@BOTH
def test_a_folder_and_a_single_file_give_the_same_vae(temporal: bool, tmp_path: Path) -> None:
    folder = tiny_vae.write_vae_folder(tmp_path / "vae", temporal=temporal)
    latents = random_latents()

    from_folder = VideoVAE.from_folder(folder, read=read_safetensors)
    file = folder / "diffusion_pytorch_model.safetensors"
    from_file = VideoVAE.from_file(file, read=read_safetensors)

    assert from_folder.is_temporal == from_file.is_temporal == temporal
    assert from_folder.config == from_file.config
    assert torch.equal(from_folder.decode(latents), from_file.decode(latents))
    assert not any(value.requires_grad or value.is_meta for value in from_file.module.parameters())


def test_old_attention_names_load(vaes: dict[bool, VideoVAE]) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors: dict[str, Tensor] = {}
    for name, value in tiny_vae.vae_tensors(temporal=False).items():
        for new_part, old_part in old.items():
            name = name.replace(f".{new_part}.", f".{old_part}.")
        tensors[name] = value
    latents = random_latents()

    vae = VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=False))

    assert any(".proj_attn." in name for name in tensors)
    assert torch.equal(vae.decode(latents), vaes[False].decode(latents))


@pytest.mark.parametrize("dropped", [("quant_conv.",), ("quant_conv.", "encoder.")], ids=str)
def test_a_file_without_encoder_decodes_and_says_that_it_cannot_encode(
    dropped: tuple[str, ...], vaes: dict[bool, VideoVAE]
) -> None:
    tensors = tiny_vae.vae_tensors(temporal=True)
    decoder = {name: value for name, value in tensors.items() if not name.startswith(dropped)}

    vae = VideoVAE.from_tensors(decoder)

    assert not vae.can_encode
    assert torch.equal(vae.decode(random_latents()), vaes[True].decode(random_latents()))
    with pytest.raises(IncompatibleInputsError, match="Encode with the image VAE"):
        vae.encode(random_frames())


@pytest.mark.parametrize("name", ["AutoencoderTiny", "AutoencoderKLWan", 3, None])
def test_r10_another_vae_class_is_refused_by_name(name: object) -> None:
    with pytest.raises(UnknownArchitectureError, match=rf"{name}"):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, _class_name=name))


@pytest.mark.parametrize(
    "change",
    [
        {"latent_channels": 16},
        {"act_fn": "gelu"},
        {"shift_factor": 0.1},
        {"latents_mean": [0.0]},
        {"mid_block_add_attention": False},
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        {"up_block_types": "UpDecoderBlock2D "},
        {"out_channels": 4},
    ],
    ids=str,
)
def test_r10_a_config_of_another_models_vae_names_the_key(change: dict[str, Any]) -> None:
    with pytest.raises(UnknownArchitectureError, match=next(iter(change))):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [32, 33]},
        {"block_out_channels": [0]},
        {"block_out_channels": [10**9]},
        {"block_out_channels": []},
        {"block_out_channels": [32] * 99},
        {"block_out_channels": 32},
        {"block_out_channels": ["32"]},
        {"layers_per_block": 0},
        {"layers_per_block": 10**9},
        {"layers_per_block": True},
        {"norm_num_groups": 0},
        {"norm_num_groups": 1.5},
        {"scaling_factor": 0},
        {"scaling_factor": float("nan")},
        {"scaling_factor": "0.18215"},
        {"use_quant_conv": "yes"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_r14_a_hostile_config_value_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"channels|" + next(iter(change))):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=False, **change))


def test_the_temporal_vae_has_thirty_two_groups() -> None:
    with pytest.raises(InvalidInputError, match="norm_num_groups"):
        VaeConfig.from_dict(tiny_vae.vae_config(temporal=True, norm_num_groups=16))


def test_weights_that_are_no_vae_are_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="not a VAE"):
        VideoVAE.from_tensors({"shared.weight": torch.zeros(3, 3)})


@BOTH
def test_r11_weights_of_the_other_vae_do_not_fit(temporal: bool) -> None:
    tensors = tiny_vae.vae_tensors(temporal=not temporal)

    with pytest.raises(WeightMismatchError, match="do not fit the VAE"):
        VideoVAE.from_tensors(tensors, tiny_vae.vae_config(temporal=temporal))


def test_a_folder_without_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match="config.json"):
        VideoVAE.from_folder(tmp_path, read=read_safetensors)


def test_missing_diffusers_is_named_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = tiny_vae.vae_tensors(temporal=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(MissingDependencyError, match="pip install diffusers"):
        VideoVAE.from_tensors(tensors)


@pytest.mark.parametrize(
    ("temporal", "parameters"), [(False, 83_653_863), (True, 97_742_847)], ids=["image", "temporal"]
)
def test_the_published_vaes_have_the_published_number_of_parameters(
    temporal: bool, parameters: int
) -> None:
    import diffusers

    published = tiny_vae.vae_config(
        temporal=temporal,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
    )
    config = VaeConfig.from_dict(published)
    with torch.device("meta"):
        module = getattr(diffusers, published["_class_name"])(**config.to_dict())

    assert sum(value.numel() for value in module.parameters()) == parameters
    assert VaeConfig.from_tensors(module.state_dict()) == config
    assert config.compression == 8


def test_where_the_vae_is(vaes: dict[bool, VideoVAE]) -> None:
    assert vaes[True].device == torch.device("cpu")
    assert vaes[True].dtype == torch.float32
    assert vaes[True].to("cpu") is vaes[True]
    assert vaes[True].can_encode
