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

from ...vae.names import (
    ATTENTION_NAMES,
    PLAIN_NAMES,
    SVD_TEMPORAL_MARK,
    TEMPORAL_NAMES,
    as_matrix,
    count_levels,
    diffusers_name,
    unknown_name,
)

Value = TypeVar("Value")

# Buffers that old files carry and that are computed, or used by nothing.
DERIVED_BUFFERS = frozenset(
    {"caption_projection.y_embedding", "pos_embed.pos_embed", "temp_pos_embed"}
)
DIFFUSERS_MARK = "decoder.time_conv_out.weight"
BLOCK = re.compile(
    r"(?P<half>encoder|decoder)\."
    r"(?:(?P<way>up_blocks|down_blocks)\.(?P<level>\d)\.|mid_block\.)"
    r"(?P<rest>.+)\.(?P<leaf>weight|bias|mix_factor)"
)


def drop_derived(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Return the weights of a LatteT2V without the buffers that carry nothing."""
    return {key: value for key, value in weights.items() if key not in DERIVED_BUFFERS}


def is_svd_layout(names: Iterable[str]) -> bool:
    """Return whether a temporal decoder VAE has the names of Stable Video Diffusion."""
    return SVD_TEMPORAL_MARK in set(names)


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
    return {
        diffusers_name(name, levels, is_temporal=True): as_matrix(name, value)
        for name, value in weights.items()
    }


def is_attention_matrix(name: str, value: Tensor) -> bool:
    """Return whether a weight is an attention layer that the other layout keeps as 1x1 conv."""
    return ".attn_1." in name and name.endswith(".weight") and value.dim() == 2


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
