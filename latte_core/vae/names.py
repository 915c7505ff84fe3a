"""The names under which a VAE's weights are published, brought to diffusers' present ones.

Image VAEs come with diffusers' names, whose attention was called otherwise before, or with the
original names of latent diffusion, in which most single files are; temporal ones with diffusers'
names or those of Stable Video Diffusion. Attention matrices may be stored as 1x1 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from ..errors import UnknownArchitectureError

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
PLAIN = re.compile(r"(?:encoder|decoder)\.conv_(?:in|out)|(?:post_)?quant_conv")
FIRST_WEIGHT = "decoder.conv_in.weight"
ORIGINAL_MARK = "decoder.mid.block_1.conv1.weight"
SVD_TEMPORAL_MARK = "decoder.mid.block_1.mix_factor"
# What diffusers called the attention's layers before version 0.17.
OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
# Parts of a training checkpoint of a VAE that take no part in encoding or decoding.
TRAINING_PARTS = ("loss.", "model_ema.", "discriminator.")
SVD_BLOCK = re.compile(
    r"(?P<half>encoder|decoder)\."
    r"(?:(?P<way>up|down)\.(?P<level>\d)\.|mid\.)"
    r"(?P<rest>.+?)\.?(?P<leaf>weight|bias|mix_factor)"
)


def present_names(names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' present name -> name in the file, for every weight of a VAE.

    One prefix in front of the names is removed, and what only training needs is left out.

    Raises:
        UnknownArchitectureError: if a name is not one of a VAE that is known.
    """
    listed = list(names)
    prefixes = [name.removesuffix(FIRST_WEIGHT) for name in listed if name.endswith(FIRST_WEIGHT)]
    prefix = min(prefixes, key=len, default="")
    inside = {name.removeprefix(prefix): name for name in listed}
    inside = {short: name for short, name in inside.items() if not short.startswith(TRAINING_PARTS)}
    if ORIGINAL_MARK not in inside:
        return {diffusers_attention(short): name for short, name in inside.items()}
    levels = count_levels(inside, "up")
    is_temporal = SVD_TEMPORAL_MARK in inside
    return {
        diffusers_name(short, levels, is_temporal=is_temporal): name
        for short, name in inside.items()
    }


def diffusers_attention(name: str) -> str:
    """Return diffusers' present name for one of its own, old or present."""
    if ".mid_block.attentions." in name:
        for old, new in OLD_ATTENTION_NAMES.items():
            name = name.replace(old, new)
    return name


def is_attention(name: str) -> bool:
    """Return whether a weight is one of the attention, by diffusers' or the original name."""
    return ".mid_block.attentions." in name or ".mid.attn_1." in name


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight, for an attention's matrix without its 1x1 window."""
    return shape[:2] if is_attention(name) and len(shape) == 4 and shape[2:] == (1, 1) else shape


def as_matrix(name: str, value: Tensor) -> Tensor:
    """Return a weight, an attention's matrix without its 1x1 window."""
    shape = tuple(value.shape)
    return value if matrix_shape(name, shape) == shape else value[:, :, 0, 0]


def count_levels(names: Iterable[str], way: str) -> int:
    """Return how many resolution levels the decoder has."""
    found = [re.match(rf"decoder\.{way}\.(\d)\.", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def diffusers_name(name: str, levels: int, *, is_temporal: bool) -> str:
    """Return diffusers' present name for an original one.

    Args:
        name: in the file, without a prefix.
        levels: of the decoder, which counts them the other way round.
        is_temporal: it is the VAE of Stable Video Diffusion.

    Raises:
        UnknownArchitectureError: if no such VAE has the name.
    """
    module, _, leaf = name.rpartition(".")
    for ours, theirs in PLAIN_NAMES.items():
        if module == theirs:
            return f"{ours}.{leaf}"
    if PLAIN.fullmatch(module):
        return name
    match = SVD_BLOCK.fullmatch(name)
    if match is None:
        raise unknown_name(name)
    is_mixed = is_temporal and match["half"] == "decoder"
    inner = diffusers_inner(name, match["rest"], match["leaf"], is_temporal=is_mixed)
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
    """Return the error for a name that no VAE has."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[:120])
    return UnknownArchitectureError(
        f"{shown} is not a weight of a VAE that Latte uses, so the file was not opened. Choose the "
        "folder vae or vae_temporal_decoder of Latte-1, or the VAE of Stable Diffusion 1.x."
    )
