"""Start a LatteT2V from PixArt-alpha's image weights, as its authors did (docs/model.md 5).

LatteT2V is PixArt-alpha with a temporal block behind each spatial one. The spatial half and
everything around it is taken; the temporal blocks start idle: the last layers of their attention
and feed-forward are 0, so they add nothing until they are trained. What then tells a clip from as
many pictures is the temporal table alone, which the model adds to its tokens (docs/model.md 5.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import IncompatibleInputsError, InvalidInputError, WeightMismatchError
from ...model.t2v.transformer import LatteT2V
from ..loading.loader import transformer_path
from ..loading.quantized import dequantize
from ..reading.folders import config_beside
from ..reading.reader import read_tensors
from ..reading.records import shown
from ..recognition.detect import count_blocks
from ..recognition.families import Family
from ..recognition.identify import require_family
from ..recognition.layout import t2v_layout
from ..recognition.names import select_model
from .dit_init import Initialization, listed

DIFFUSERS_MARK = "transformer_blocks.0.attn2.to_q.weight"
ORIGINAL_MARK = "blocks.0.cross_attn.q_linear.weight"
CLASS_NAMES = ("PixArtTransformer2DModel", "Transformer2DModel")
TEMPORAL_START = "temporal_transformer_blocks."
IDLE_LAYERS = ("attn1.to_out.0", "ff.net.2")  # of each temporal block
# What PixArt tells its models for 1024 pixels about a picture: its size and its shape.
MICRO_CONDITIONS = (
    *("adaln_single.emb.resolution_embedder.", "adaln_single.emb.aspect_ratio_embedder."),
    *("csize_embedder.", "ar_embedder."),
)
# Tables that are computed, and text features that are used in training only.
NOT_USED = frozenset(
    {
        *("pos_embed", "pos_embed.pos_embed"),
        *("y_embedder.y_embedding", "caption_projection.y_embedding"),
    }
)
# Names of the authors' files -> released names.
OUTER_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer": "",
}
# Inside a block; several names stand for equal parts of the rows, one after the other.
BLOCK_NAMES: Mapping[str, tuple[str, ...]] = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "": ("",),
}
ORIGINAL_BLOCK = re.compile(r"blocks\.(\d+)\.(?:(.+)\.)?(weight|bias|scale_shift_table)")


def initialize_from_pixart(model: LatteT2V, path: Path | str) -> Initialization:
    """Give a new LatteT2V the weights of a PixArt-alpha image model, and make temporal blocks idle.

    With one frame, or without temporal attention, the model then shows what the image model shows.

    Args:
        model: changed in place; its device, type and `requires_grad` stay.
        path: PixArt-alpha for 256 or 512 pixels, with diffusers' names or the authors': a file, a
            transformer folder, or a folder of the whole model.

    Raises:
        IncompatibleInputsError: if the two differ in size, or the image model wants to be told the
            size of pictures.
        UnknownArchitectureError: if the file is no PixArt, saying what it is.
        WeightMismatchError: if weights are missing, or there are some that PixArt-alpha has not.
        InvalidInputError: if the model has no storage for weights.
        CheckpointError: for a file that cannot be read.
    """
    if model.scale_shift_table.is_meta:
        raise InvalidInputError(
            "The LatteT2V to start has no storage for weights, because it was built on the meta "
            "device. Build it on a real one."
        )
    path = transformer_path(Path(path))
    require_family(path, Family.PIXART, "an image model to start from")
    weights, left_out = read_pixart(path)
    config = usable_config(path)
    require_same_sizes(path.name, weights, config, model)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    idle = make_idle(model)
    kept = tuple(name for name in own if name not in weights and name not in idle)
    return Initialization(
        source=path.name,
        taken=tuple(weights),
        left_out=left_out,
        kept=kept,
        sentence=sentence_of(path.name, weights, left_out, config, model),
    )


@torch.no_grad()
def make_idle(model: LatteT2V) -> tuple[str, ...]:
    """Let temporal blocks add nothing, and return the names of the weights that are 0 now."""
    own = model.state_dict()
    idle = tuple(
        f"{TEMPORAL_START}{index}.{layer}.{kind}"
        for index in range(model.config.num_layers)
        for layer in IDLE_LAYERS
        for kind in ("weight", "bias")
    )
    for name in idle:
        own[name].zero_()
    return idle


def read_pixart(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return PixArt's weights under released names, and the names of those that are not used.

    Raises:
        IncompatibleInputsError: for a model that wants to be told the size of pictures.
        WeightMismatchError: if two names of the file mean the same weight.
    """
    file = read_tensors(path)
    selection = select_model(file.tensors, DIFFUSERS_MARK)
    is_original = selection is None
    selection = selection or select_model(file.tensors, ORIGINAL_MARK)
    names = selection.names if selection is not None else {name: name for name in file.tensors}
    found = {short: file.tensors[name] for short, name in names.items()}
    told = next((name for name in found if name.startswith(MICRO_CONDITIONS)), None)
    if told is not None:
        raise IncompatibleInputsError(
            f"{path.name} cannot start a Latte: this PixArt is told the size and shape of each "
            f"picture ({shown(told)}), as those for 1024 pixels are, and Latte has no place for "
            "that. Take PixArt-alpha for 512 or 256 pixels."
        )
    left_out = tuple(name for name in found if name in NOT_USED)
    used = {name: value for name, value in found.items() if name not in NOT_USED}
    weights = dequantize(path.name, used, torch.float32)
    return released_names(weights) if is_original else weights, left_out


def released_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' weights, and cut joined projections; unknown names stay."""
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        targets = targets_of(name)
        if not targets or value.shape[0] % len(targets):
            result[name] = value
            continue
        result.update(zip(targets, value.chunk(len(targets)), strict=True))
    return result


def targets_of(name: str) -> tuple[str, ...]:
    """Return the released names of one of the authors' weights, () if it is none of theirs."""
    layer, _, leaf = name.rpartition(".")
    if layer in OUTER_NAMES:
        return (f"{OUTER_NAMES[layer]}.{leaf}".lstrip("."),)
    match = ORIGINAL_BLOCK.fullmatch(name)
    if match is None:
        return ()
    parts = BLOCK_NAMES.get(match[2] or "", ())
    starts = [f"transformer_blocks.{match[1]}.{part}".rstrip(".") for part in parts]
    return tuple(f"{start}.{match[3]}" for start in starts)


def usable_config(path: Path) -> Mapping[str, Any]:
    """Return the config.json beside the weights if it is a PixArt's, else an empty one."""
    values = config_beside(path) or {}
    return values if values.get("_class_name") in CLASS_NAMES else {}


def require_same_sizes(
    name: str, weights: Mapping[str, Tensor], config: Mapping[str, Any], model: LatteT2V
) -> None:
    """Refuse an image model of another size, or one that is not whole.

    Raises:
        IncompatibleInputsError: naming everything in which they differ.
        WeightMismatchError: with the first names that are missing or not expected.
    """
    own, sizes = model.config, sizes_of(weights)
    expected = {
        "blocks": own.num_layers,
        "width": own.hidden_size,
        "width of the text": own.caption_channels,
        "patch size": own.patch_size,
        "latent channels": own.in_channels,
        "rows of the last layer": own.patch_size**2 * own.out_channels,
        "attention heads": own.num_attention_heads,
    }
    sizes["attention heads"] = config.get("num_attention_heads", own.num_attention_heads)
    differing = [
        f"{title} {sizes[title]} instead of {value}"
        for title, value in expected.items()
        if sizes.get(title, value) != value
    ]
    if differing:
        raise IncompatibleInputsError(
            f"{name} cannot start this LatteT2V: it has {', '.join(differing)}. Build the model "
            "with the sizes of the image model."
        )
    layout = {k: v for k, v in t2v_layout(own).items() if not k.startswith(TEMPORAL_START)}
    missing = tuple(key for key in layout if key not in weights)
    odd = tuple(k for k, v in weights.items() if k not in layout or tuple(v.shape) != layout[k])
    if missing or odd:
        raise WeightMismatchError(
            f"{name} is no whole PixArt-alpha: {len(missing)} weights are missing"
            f"{in_brackets(missing)}, {len(odd)} are unknown or of another shape"
            f"{in_brackets(odd)}. Download it again, or choose PixArt-alpha."
        )


def in_brackets(names: Iterable[str]) -> str:
    """Return the first names for a sentence, nothing for none."""
    text = listed(tuple(shown(name) for name in names))
    return f" ({text})" if text else ""


def sizes_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes that the weights show, as far as they are there."""
    sizes: dict[str, Any] = {
        "blocks": count_blocks({name: 0 for name in weights}, "transformer_blocks.")
    }
    patches, text = weights.get("pos_embed.proj.weight"), "caption_projection.linear_1.weight"
    if patches is not None and patches.dim() == 4:
        sizes["width"], sizes["latent channels"], sizes["patch size"] = patches.shape[:3]
    if text in weights and weights[text].dim() == 2:
        sizes["width of the text"] = weights[text].shape[1]
    if "proj_out.bias" in weights:
        sizes["rows of the last layer"] = weights["proj_out.bias"].numel()
    return sizes


def sentence_of(
    name: str,
    weights: Mapping[str, Tensor],
    left_out: tuple[str, ...],
    config: Mapping[str, Any],
    model: LatteT2V,
) -> str:
    """Say for a person what became of the weights."""
    own = model.config
    parts = [
        f"Took {len(weights)} weights from {name}, a PixArt image model of {own.num_layers} blocks "
        f"and width {own.hidden_size}. The {own.num_layers} temporal blocks add nothing until they "
        "are trained."
    ]
    parts += [f"Not used: {listed(left_out)}."] if left_out else []
    side = config.get("sample_size", own.sample_size)
    if side != own.sample_size:
        parts.append(
            f"The image model was made for latents of {shown(str(side))} cells a side, this one "
            f"for {own.sample_size}: places in a picture are numbered otherwise than it learned."
        )
    return " ".join(parts)
