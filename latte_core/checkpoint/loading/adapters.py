"""Rename weights between the layouts in which they are published, key by key.

LatteT2V has the same names everywhere (docs/model.md 5.2); one buffer is dropped. The temporal
decoder VAE is published with diffusers' names and understood by ComfyUI with those of Stable Video
Diffusion (docs/comfyui.md 9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from ...errors import UnknownArchitectureError
from ..reading.records import shown

Value = TypeVar("Value")

# Buffers that old files carry and that are computed, or used by nothing.
DERIVED_BUFFERS = frozenset(
    {"caption_projection.y_embedding", "pos_embed.pos_embed", "temp_pos_embed"}
)
SVD_MARK = "decoder.mid.block_1.mix_factor"
DIFFUSERS_MARK = "decoder.time_conv_out.weight"
ATTENTION_NAMES = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
TEMPORAL_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
PLAIN_NAMES = {
    "decoder.time_conv_out": "decoder.conv_out.time_mix_conv",
    "decoder.conv_norm_out": "decoder.norm_out",
    "encoder.conv_norm_out": "encoder.norm_out",
}
BLOCK = re.compile(
    r"(?P<half>encoder|decoder)\."
    r"(?:(?P<way>up_blocks|down_blocks)\.(?P<level>\d)\.|mid_block\.)"
    r"(?P<rest>.+)\.(?P<leaf>weight|bias|mix_factor)"
)
SVD_BLOCK = re.compile(
    r"(?P<half>encoder|decoder)\."
    r"(?:(?P<way>up|down)\.(?P<level>\d)\.|mid\.)"
    r"(?P<rest>.+?)\.?(?P<leaf>weight|bias|mix_factor)"
)


def drop_derived(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Return the weights of a LatteT2V without the buffers that carry nothing."""
    return {key: value for key, value in weights.items() if key not in DERIVED_BUFFERS}


def is_svd_layout(names: Iterable[str]) -> bool:
    """Return whether a temporal decoder VAE has the names of Stable Video Diffusion."""
    return SVD_MARK in set(names)


def temporal_vae_to_svd(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a temporal decoder VAE from diffusers' layout to the one ComfyUI loads.

    `quant_conv` is dropped: the other layout has none, so the result decodes only.

    Raises:
        UnknownArchitectureError: if a name is not one of that VAE.
    """
    levels = count_levels(weights, "up_blocks")
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("quant_conv."):
            continue
        target = svd_name(name, levels)
        result[target] = value[:, :, None, None] if is_attention_matrix(target, value) else value
    return result


def temporal_vae_to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a temporal decoder VAE from Stable Video Diffusion's layout to diffusers'.

    There is no `quant_conv` in the source, so there is none in the result: it decodes only.

    Raises:
        UnknownArchitectureError: if a name is not one of that VAE.
    """
    levels = count_levels(weights, "up")
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        is_matrix = ".attn_1." in name and value.dim() == 4
        result[diffusers_name(name, levels)] = value[:, :, 0, 0] if is_matrix else value
    return result


def is_attention_matrix(name: str, value: Tensor) -> bool:
    """Return whether a weight is an attention layer that the other layout keeps as 1x1 conv."""
    return ".attn_1." in name and name.endswith(".weight") and value.dim() == 2


def count_levels(names: Iterable[str], way: str) -> int:
    """Return how many resolution levels the decoder has."""
    found = [re.match(rf"decoder\.{way}\.(\d)\.", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def svd_name(name: str, levels: int) -> str:
    """Return the Stable Video Diffusion name for a diffusers name."""
    module, _, leaf = name.rpartition(".")
    if module in PLAIN_NAMES:
        return f"{PLAIN_NAMES[module]}.{leaf}"
    if re.fullmatch(r"(?:encoder|decoder)\.conv_(?:in|out)", module):
        return name
    match = BLOCK.fullmatch(name)
    if match is None:
        raise unknown_name(name)
    if match["way"] is None:
        return f"{match['half']}.mid.{svd_mid(name, match['rest'], match['leaf'])}"
    is_up = match["way"] == "up_blocks"
    level = levels - 1 - int(match["level"]) if is_up else int(match["level"])
    inner = svd_inner(name, match["rest"], match["leaf"])
    return f"{match['half']}.{'up' if is_up else 'down'}.{level}.{inner}"


def svd_mid(name: str, rest: str, leaf: str) -> str:
    """Rename inside the middle block: two residual blocks and one attention."""
    if attention := re.fullmatch(r"attentions\.0\.(.+)", rest):
        if attention[1] not in ATTENTION_NAMES:
            raise unknown_name(name)
        return f"attn_1.{ATTENTION_NAMES[attention[1]]}.{leaf}"
    inner = re.fullmatch(r"resnets\.([01])\.(.+)", rest)
    if inner is None:
        raise unknown_name(name)
    return f"block_{int(inner[1]) + 1}.{svd_residual(name, inner[2], leaf)}"


def svd_inner(name: str, rest: str, leaf: str) -> str:
    """Rename inside a level: residual blocks and a change of size."""
    if change := re.fullmatch(r"(up|down)samplers\.0\.conv", rest):
        return f"{change[1]}sample.conv.{leaf}"
    inner = re.fullmatch(r"resnets\.(\d)\.(.+)", rest)
    if inner is None:
        raise unknown_name(name)
    return f"block.{inner[1]}.{svd_residual(name, inner[2], leaf)}"


def svd_residual(name: str, rest: str, leaf: str) -> str:
    """Rename inside a residual block, spatial or spatio-temporal."""
    if rest == "time_mixer" and leaf == "mix_factor":
        return leaf
    if rest.startswith("temporal_res_block."):
        layer = rest.removeprefix("temporal_res_block.")
        if layer not in TEMPORAL_NAMES:
            raise unknown_name(name)
        return f"time_stack.{TEMPORAL_NAMES[layer]}.{leaf}"
    layer = rest.removeprefix("spatial_res_block.").replace("conv_shortcut", "nin_shortcut")
    if layer not in ("norm1", "conv1", "norm2", "conv2", "nin_shortcut"):
        raise unknown_name(name)
    return f"{layer}.{leaf}"


def diffusers_name(name: str, levels: int) -> str:
    """Return the diffusers name for a Stable Video Diffusion name."""
    module, _, leaf = name.rpartition(".")
    for ours, theirs in PLAIN_NAMES.items():
        if module == theirs:
            return f"{ours}.{leaf}"
    if re.fullmatch(r"(?:encoder|decoder)\.conv_(?:in|out)", module):
        return name
    match = SVD_BLOCK.fullmatch(name)
    if match is None:
        raise unknown_name(name)
    is_decoder = match["half"] == "decoder"
    inner = diffusers_inner(name, match["rest"], match["leaf"], is_temporal=is_decoder)
    if match["way"] is None:
        return f"{match['half']}.mid_block.{inner}"
    is_up = match["way"] == "up"
    level = levels - 1 - int(match["level"]) if is_up else int(match["level"])
    return f"{match['half']}.{match['way']}_blocks.{level}.{inner}"


def diffusers_inner(name: str, rest: str, leaf: str, *, is_temporal: bool) -> str:
    """Rename inside a middle block or a level."""
    if attention := re.fullmatch(r"attn_1\.(.+)", rest):
        for ours, theirs in ATTENTION_NAMES.items():
            if attention[1] == theirs:
                return f"attentions.0.{ours}.{leaf}"
    if change := re.fullmatch(r"(up|down)sample\.conv", rest):
        return f"{change[1]}samplers.0.conv.{leaf}"
    block = re.fullmatch(r"block(?P<middle>_)?\.?(?P<number>\d)(?:\.(?P<rest>.+))?", rest)
    if block is None:
        raise unknown_name(name)
    number = int(block["number"]) - (1 if block["middle"] else 0)
    inner = diffusers_residual(name, block["rest"] or "", leaf, is_temporal=is_temporal)
    return f"resnets.{number}.{inner}"


def diffusers_residual(name: str, rest: str, leaf: str, *, is_temporal: bool) -> str:
    """Rename inside a residual block."""
    if leaf == "mix_factor":
        return "time_mixer.mix_factor"
    if rest.startswith("time_stack."):
        for ours, theirs in TEMPORAL_NAMES.items():
            if rest == f"time_stack.{theirs}":
                return f"temporal_res_block.{ours}.{leaf}"
    layer = rest.replace("nin_shortcut", "conv_shortcut")
    if layer not in ("norm1", "conv1", "norm2", "conv2", "conv_shortcut"):
        raise unknown_name(name)
    return f"spatial_res_block.{layer}.{leaf}" if is_temporal else f"{layer}.{leaf}"


def unknown_name(name: str) -> UnknownArchitectureError:
    """Return the error for a name that no temporal decoder VAE has."""
    return UnknownArchitectureError(
        f"{shown(name)} is not a weight of the temporal decoder VAE that Latte-1 uses, so the file "
        "was not converted. Choose its vae_temporal_decoder."
    )
