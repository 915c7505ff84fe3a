"""Recognise a Latte of classes or without conditions, or a DiT, by weights (docs/model.md 9.4).

Names and first dimensions decide, as for LatteT2V; of the position tables, which nothing packs, the
second dimension is read. Head count and variant do not show in weights: the variant is 1 unless a
config says otherwise, and heads follow from the width for the four published sizes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

from torch import Tensor

from ...checks import is_number, is_whole
from ...config.latte import SIZES, LatteConfig
from ...errors import WeightMismatchError
from .detect import (
    Shaped,
    config_in,
    config_in_tensor,
    count_blocks,
    first_dimensions,
    plain,
    resolve,
)
from .names import (
    CONFIG_TENSOR,
    LATTE_INPUT,
    MODULATION,
    SECOND_ATTENTION,
    TEMPORAL_TABLE,
    TUBELET_LAYER,
    VIDEO_NAMES,
    looks_like_latte,
)

BLOCK = "blocks."
LATTE_CLASS_NAMES = ("Latte", "LatteIMG")
HEADS_OF_WIDTH = {width: heads for _, width, heads in SIZES.values()}
IMAGENET_CLASSES = 1000
SPATIAL_TABLE = "pos_embed"
TABLES = (SPATIAL_TABLE, TEMPORAL_TABLE)
LABEL_TABLE = "y_embedder.embedding_table.weight"
TEXT_LAYER = "text_embedding_projection.1.weight"
MAX_MLP_RATIO = 64


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a model's weights: first dimensions, and the second of its tables.

    Args:
        first: name -> first dimension.
        second: table name -> second dimension, where the file tells it.
    """

    first: Mapping[str, int]
    second: Mapping[str, int]


def detect_latte(
    shapes: Mapping[str, Shaped],
    metadata: Mapping[str, str] | None = None,
    *,
    config: Mapping[str, Any] | LatteConfig | None = None,
    prefix: str = "",
) -> LatteConfig | None:
    """Return the config of the Latte whose weights are named in `shapes`, or None.

    DiT's ImageNet weights are found too, as an image model (`has_temporal` False).

    Args:
        shapes: released name -> anything with a `shape`. Of the tensor that ComfyUI's saved models
            keep the config in, the contents are read where they are there.
        metadata: text entries of the file; "config" may hold the config as JSON.
        config: settings that win over the file's own, key by key, under our names or the
            reference's.
        prefix: what stands before every name, for example "model.diffusion_model.".

    Raises:
        CorruptCheckpointError: if the file's own config cannot be used.
        InvalidInputError: if `config` cannot be used.
        WeightMismatchError: if a config contradicts the weights, or the head count is unknown.
    """
    if not looks_like_latte(shapes, prefix):
        return None
    own = dict(config_in(metadata) or {})
    saved = shapes.get(f"{prefix}{CONFIG_TENSOR}")
    if isinstance(saved, Tensor):
        own = dict(config_in_tensor(saved))
    given = plain(config)
    if not has_known_time(weights_in(shapes, prefix), {**own, **(given or {})}):
        return None
    return latte_config_of(shapes, own, given, prefix=prefix)


def latte_config_of(
    shapes: Mapping[str, Shaped],
    own: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    *,
    place: str = "in the file",
    prefix: str = "",
) -> LatteConfig:
    """Return the config of weights that are known to be a Latte's or DiT's; see `detect_latte`.

    Args:
        own: settings that came with the weights; those of the caller, `given`, win over them.
        place: where `own` stood, for messages.
    """
    join = partial(join_with_weights, weights_in(shapes, prefix))
    return resolve(join, LatteConfig.translate, own, given, place)


def weights_in(shapes: Mapping[str, Shaped], prefix: str) -> Weights:
    """Collect what is read off the weights behind `prefix`."""
    second: dict[str, int] = {}
    for name in (*TABLES, TEXT_LAYER):
        shape = shapes[prefix + name].shape if prefix + name in shapes else ()
        if len(shape) >= 2:
            second[name] = int(shape[1])
    return Weights(first_dimensions(shapes, prefix), second)


def has_known_time(weights: Weights, stated: Mapping[str, Any]) -> bool:
    """Return whether it is certain that weights with DiT's names are a video or an image model."""
    is_stated = "has_temporal" in stated or stated.get("temporal_positions") == "rotary"
    is_imagenet = weights.first.get(LABEL_TABLE) == IMAGENET_CLASSES + 1
    return is_stated or is_imagenet or any(name in weights.first for name in VIDEO_NAMES)


def join_with_weights(weights: Weights, stated: Mapping[str, Any]) -> LatteConfig:
    """Join what the weights show with what a config states; they must not contradict."""
    seen = infer(weights, stated)
    for name, value in seen.items():
        check_stated(name, stated.get(name, value), value)
    variant = stated.get("variant", 1)
    check_variant(variant, has_both=SECOND_ATTENTION in weights.first)
    if seen["has_temporal"] and variant in (1, 2) and seen["depth"] % 2:
        raise WeightMismatchError(
            f"The weights have {seen['depth']} blocks, but a Latte has as many temporal as spatial "
            "ones, an even number in all. Some are missing; download or convert the file again."
        )
    width = seen["hidden_size"]
    if "num_heads" not in stated and width not in HEADS_OF_WIDTH:
        raise WeightMismatchError(
            f"These are the weights of a Latte of width {width}, which does not tell how many "
            "attention heads it has. Give num_heads in a config, or put the config.json that came "
            "with the weights beside them."
        )
    heads: dict[str, Any] = {"num_heads": HEADS_OF_WIDTH.get(width)}
    return LatteConfig(**{**heads, **seen, **stated})


def check_stated(name: str, stated: object, seen: object) -> None:
    """Refuse a config that describes another model than the weights."""
    if stated != seen:
        raise WeightMismatchError(
            f"The config gives {name} {stated!r}, but the weights have {seen!r}. "
            "Use the config.json that came with these weights, or none."
        )


def check_variant(variant: object, *, has_both: bool) -> None:
    """Refuse a variant whose blocks have another number of attentions than the weights."""
    if has_both != (variant in (3, 4)):
        count = "two attentions in each block" if has_both else "one attention in each block"
        fitting = "3 and 4" if has_both else "1 and 2"
        raise WeightMismatchError(
            f"The weights have {count}, as variants {fitting} have, but the config gives variant "
            f"{variant!r}, or none, which means 1. Give the variant they were trained as; the "
            "weights do not tell it."
        )


def infer(weights: Weights, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting that the weights show, given what only a config can tell."""
    first, width = weights.first, weights.first[LATTE_INPUT]
    output = infer_output(first, count(stated.get("in_channels"), 4))
    seen: dict[str, Any] = {
        "hidden_size": width,
        "depth": count_blocks(first, BLOCK),
        "injection": "adaln" if MODULATION in first else "tokens",
        **output,
        **infer_condition(weights, stated),
        **infer_time(weights, stated, output.get("learn_sigma", True)),
    }
    rows = first.get("blocks.0.mlp.fc1.weight", 0)
    if rows and inner_width(width, stated.get("mlp_ratio", 4.0)) != rows:
        is_exact = inner_width(width, rows / width) == rows
        seen["mlp_ratio"] = rows / width if is_exact else (rows + 0.5) / width
    if SPATIAL_TABLE in weights.second:
        patch = count(output.get("patch_size", stated.get("patch_size")), 2)
        seen["input_size"] = isqrt(weights.second[SPATIAL_TABLE]) * patch
    return seen


def inner_width(width: int, ratio: Any) -> int:
    """Return the rows of a feed-forward layer, 0 for a ratio that is no sensible number."""
    return int(width * ratio) if is_number(ratio) and 0 < ratio <= MAX_MLP_RATIO else 0


def infer_output(first: Mapping[str, int], channels: int) -> dict[str, Any]:
    """Return patch edge P and whether variance is learned: rows = P * P * C, or twice that."""
    rows = first.get("final_layer.linear.weight", 0)
    for learned in (True, False):
        values = channels * (1 + learned)
        edge = isqrt(rows // values)
        if edge and edge * edge * values == rows:
            return {"patch_size": edge, "learn_sigma": learned}
    return {}


def infer_condition(weights: Weights, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model is conditioned on, and how many classes or text features there are."""
    if LABEL_TABLE in weights.first:
        has_null = stated.get("class_dropout_prob") != 0
        return {
            "conditioning": "class",
            "num_classes": weights.first[LABEL_TABLE] - int(has_null),
        }
    if TEXT_LAYER not in weights.first:
        return {"conditioning": "none", "num_classes": 0}
    seen: dict[str, Any] = {"conditioning": "clip_text", "num_classes": 0}
    if TEXT_LAYER in weights.second and "text_features" not in stated:
        seen["text_features"] = weights.second[TEXT_LAYER]
    return seen


def infer_time(weights: Weights, stated: Mapping[str, Any], learned: bool) -> dict[str, Any]:
    """Return how frames are joined; without any sign of time this is an image model.

    Raises:
        WeightMismatchError: if it may as well be a video model of which a part is missing.
    """
    first = weights.first
    if not has_known_time(weights, stated):
        raise WeightMismatchError(
            f"The weights have no {TEMPORAL_TABLE}, so they are no video model or not the whole of "
            f"one, and they do not have the {IMAGENET_CLASSES} classes of DiT's image models. "
            "Give has_temporal in a config: false for an image model."
        )
    is_video = any(name in first for name in VIDEO_NAMES) or stated.get("has_temporal", False)
    if not is_video and stated.get("temporal_positions") != "rotary":
        return {"num_frames": count(stated.get("num_frames"), 1), "has_temporal": False}
    values = count(stated.get("in_channels"), 4) * (1 + learned)
    tubelet = max(first.get(TUBELET_LAYER, values) // values, 1)
    seen: dict[str, Any] = {"tubelet_size": tubelet, "has_temporal": True}
    if TEMPORAL_TABLE in weights.second:
        seen["num_frames"] = weights.second[TEMPORAL_TABLE] * tubelet
    if TEMPORAL_TABLE in first:
        seen["temporal_positions"] = "absolute"
    elif "temporal_positions" not in stated:
        seen["temporal_positions"] = "rotary"
    return seen


def count(value: Any, default: int) -> int:
    """Return a stated count if it is one, else `default`; the config itself is checked later."""
    return value if is_whole(value, low=1) else default
