"""Names of the temporal decoder VAE in diffusers' and in Stable Video Diffusion's layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latte_core.checkpoint import is_svd_layout, temporal_vae_to_diffusers, temporal_vae_to_svd
from latte_core.errors import UnknownArchitectureError

# Facts of docs/comfyui.md 9, for a VAE of four levels.
PAIRS = {
    "decoder.conv_in.weight": "decoder.conv_in.weight",
    "decoder.mid_block.resnets.0.spatial_res_block.conv1.weight": (
        "decoder.mid.block_1.conv1.weight"
    ),
    "decoder.mid_block.resnets.1.temporal_res_block.norm1.bias": (
        "decoder.mid.block_2.time_stack.in_layers.0.bias"
    ),
    "decoder.mid_block.resnets.1.temporal_res_block.conv2.weight": (
        "decoder.mid.block_2.time_stack.out_layers.3.weight"
    ),
    "decoder.mid_block.resnets.0.time_mixer.mix_factor": "decoder.mid.block_1.mix_factor",
    "decoder.mid_block.attentions.0.to_out.0.weight": "decoder.mid.attn_1.proj_out.weight",
    "decoder.mid_block.attentions.0.group_norm.weight": "decoder.mid.attn_1.norm.weight",
    "decoder.up_blocks.0.resnets.2.spatial_res_block.norm2.weight": (
        "decoder.up.3.block.2.norm2.weight"
    ),
    "decoder.up_blocks.2.resnets.0.spatial_res_block.conv_shortcut.weight": (
        "decoder.up.1.block.0.nin_shortcut.weight"
    ),
    "decoder.up_blocks.3.resnets.0.temporal_res_block.conv1.weight": (
        "decoder.up.0.block.0.time_stack.in_layers.2.weight"
    ),
    "decoder.up_blocks.3.resnets.0.time_mixer.mix_factor": "decoder.up.0.block.0.mix_factor",
    "decoder.up_blocks.0.upsamplers.0.conv.bias": "decoder.up.3.upsample.conv.bias",
    "decoder.conv_norm_out.weight": "decoder.norm_out.weight",
    "decoder.time_conv_out.weight": "decoder.conv_out.time_mix_conv.weight",
    "encoder.down_blocks.1.downsamplers.0.conv.weight": "encoder.down.1.downsample.conv.weight",
    "encoder.down_blocks.1.resnets.0.conv_shortcut.bias": (
        "encoder.down.1.block.0.nin_shortcut.bias"
    ),
    "encoder.mid_block.resnets.0.conv1.weight": "encoder.mid.block_1.conv1.weight",
    "encoder.mid_block.attentions.0.to_q.weight": "encoder.mid.attn_1.q.weight",
    "encoder.conv_norm_out.bias": "encoder.norm_out.bias",
}


@pytest.fixture(scope="module")
def diffusers_weights() -> dict[str, Tensor]:
    """The weights of diffusers' own class with four small levels."""
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=1,
    )
    return vae.state_dict()


def test_every_name_of_diffusers_class_gets_its_counterpart(
    diffusers_weights: dict[str, Tensor],
) -> None:
    renamed = temporal_vae_to_svd(diffusers_weights)
    kept = [key for key in diffusers_weights if not key.startswith("quant_conv.")]
    assert len(renamed) == len(kept)
    assert not any("res_block" in key or "resnets" in key for key in renamed)
    for name, counterpart in PAIRS.items():
        if name in diffusers_weights:
            assert renamed[counterpart].numel() == diffusers_weights[name].numel()


@pytest.mark.parametrize("name", PAIRS)
def test_names_are_those_of_the_published_table(name: str) -> None:
    four_levels = "decoder.up_blocks.3.resnets.0.spatial_res_block.norm1.weight"
    value = torch.ones(2, 2)
    renamed = temporal_vae_to_svd({name: value, four_levels: value})
    assert PAIRS[name] in renamed
    top = "decoder.up.3.block.0.norm1.weight"
    back = temporal_vae_to_diffusers({PAIRS[name]: value, top: value})
    assert name in back


def test_attention_matrices_become_convolutions_and_come_back(
    diffusers_weights: dict[str, Tensor],
) -> None:
    renamed = temporal_vae_to_svd(diffusers_weights)
    assert renamed["decoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)
    assert renamed["decoder.mid.attn_1.norm.weight"].shape == (64,)
    back = temporal_vae_to_diffusers(renamed)
    kept = {k: v for k, v in diffusers_weights.items() if not k.startswith("quant_conv.")}
    assert set(back) == set(kept)
    assert all(torch.equal(back[key], value) for key, value in kept.items())


def test_layouts_are_told_apart(diffusers_weights: dict[str, Tensor]) -> None:
    assert not is_svd_layout(diffusers_weights)
    assert is_svd_layout(temporal_vae_to_svd(diffusers_weights))


@pytest.mark.parametrize(
    "name",
    [
        "decoder.stray.weight",
        "post_quant_conv.weight",
        "decoder.mid_block.attentions.0.to_x.weight",
        "decoder.mid_block.other.weight",
        "decoder.up_blocks.0.other.weight",
        "decoder.up_blocks.0.resnets.0.other.weight",
        "decoder.up_blocks.0.resnets.0.temporal_res_block.other.weight",
    ],
)
def test_unknown_name_is_refused_not_dropped(name: str) -> None:
    with pytest.raises(UnknownArchitectureError, match="not a weight"):
        temporal_vae_to_svd({name: torch.ones(1)})


@pytest.mark.parametrize(
    "name",
    [
        "decoder.stray.weight",
        "decoder.mid.attn_1.x.weight",
        "decoder.mid.other.weight",
        "decoder.up.0.block.0.other.weight",
        "decoder.up.0.block.0.time_stack.other.weight",
    ],
)
def test_unknown_name_of_the_other_layout_is_refused(name: str) -> None:
    with pytest.raises(UnknownArchitectureError, match="not a weight"):
        temporal_vae_to_diffusers({name: torch.ones(1)})
