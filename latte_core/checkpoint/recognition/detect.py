"""Recognise a LatteT2V and its size from names and first dimensions (docs/model.md 9.4).

Only the first dimension of a weight is looked at: packed 4-bit files halve the second one, and
files read lazily may not know it. What names cannot tell (heads, text width) comes from a config
in the file, beside it, or from the caller, else from the released models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isqrt
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ...checks import is_whole
from ...config.latte import LatteConfig
from ...config.t2v import LEGACY_KEYS, LatteT2VConfig
from ...errors import CorruptCheckpointError, InvalidInputError, WeightMismatchError
from ...files import json_object
from ..reading.folders import MAX_CONFIG_BYTES
from ..reading.records import damaged
from .names import CONFIG_TENSOR, T2V_MARK

TEMPORAL_BLOCK = "temporal_transformer_blocks."
RELEASED_HEADS = 16
CONFIG_KEY = "config"
Config = TypeVar("Config")
T2V_CLASS_NAMES = ("LatteTransformer3DModel", "LatteT2V", "Transformer2DModel")


class Shaped(Protocol):
    """Anything with a shape: a tensor, a header entry, a lazily read weight."""

    @property
    def shape(self) -> Sequence[int]: ...


def detect_t2v(
    shapes: Mapping[str, Shaped],
    metadata: Mapping[str, str] | None = None,
    *,
    config: Mapping[str, Any] | LatteT2VConfig | None = None,
    prefix: str = "",
) -> LatteT2VConfig | None:
    """Return the config of the LatteT2V whose weights are named in `shapes`, or None.

    Args:
        shapes: released name -> anything with a `shape`, of which the first dimension is read.
        metadata: text entries of the file; "config" may hold the config as JSON.
        config: settings that win over the file's own, key by key.
        prefix: what stands before every name, for example "model.diffusion_model.".

    Raises:
        CorruptCheckpointError: if the config in `metadata` cannot be used.
        InvalidInputError: if `config` cannot be used.
        WeightMismatchError: if a config contradicts the weights, or the head count is unknown.
    """
    if f"{prefix}{T2V_MARK}" not in shapes:
        return None
    return t2v_config_of(shapes, config_in(metadata) or {}, plain(config), prefix=prefix)


def t2v_config_of(
    shapes: Mapping[str, Shaped],
    own: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    *,
    place: str = "in the file",
    prefix: str = "",
) -> LatteT2VConfig:
    """Return the config of weights that are known to be a LatteT2V's; see `detect_t2v`.

    Args:
        own: settings that came with the weights; those of the caller, `given`, win over them.
        place: where `own` stood, for messages.
    """
    return resolve(partial(join, first_dimensions(shapes, prefix)), dict, own, given, place)


def plain(
    config: Mapping[str, Any] | LatteT2VConfig | LatteConfig | None,
) -> Mapping[str, Any] | None:
    """Return settings as a table."""
    return config.to_dict() if isinstance(config, (LatteT2VConfig, LatteConfig)) else config


def resolve(
    join: Callable[[dict[str, Any]], Config],
    translate: Callable[[Mapping[str, Any]], dict[str, Any]],
    own: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    place: str,
) -> Config:
    """Return the config of weights with the settings that came with them.

    Args:
        join: settings under our own names to a config that the weights do not contradict.
        translate: settings to the same under our own names.
        own: settings that came with the weights; those of the caller, `given`, win over them.
        place: where `own` stood, for messages.

    Raises:
        CorruptCheckpointError: if the weights' own settings alone cannot be used.
        InvalidInputError: if settings cannot be used and the caller gave some.
    """
    if given is not None:
        return join({**translate(own), **translate(given)})
    try:
        return join(translate(own))
    except InvalidInputError as error:
        found = f"The config {place} is unusable" if own else "The weights are of no usable model"
        raise CorruptCheckpointError(f"{found}: {error}") from error


def first_dimensions(shapes: Mapping[str, Shaped], prefix: str) -> dict[str, int]:
    """Return the first dimension of every weight behind `prefix` that has one."""
    found: dict[str, int] = {}
    for name, value in shapes.items():
        if name.startswith(prefix):
            shape = value.shape
            found[name.removeprefix(prefix)] = int(shape[0]) if len(shape) else 0
    return found


def config_in(metadata: Mapping[str, str] | None) -> Mapping[str, Any] | None:
    """Return the transformer's config from a file's metadata, or None if it has none.

    A config of several parts, with a "transformer" entry, is accepted.

    Raises:
        CorruptCheckpointError: if the entry is not a JSON table.
    """
    text = (metadata or {}).get(CONFIG_KEY)
    if text is None:
        return None
    table = json_object("The config in the file", text)
    part = table.get("transformer", table)
    return cast("Mapping[str, Any]", part) if isinstance(part, dict) else table


def config_in_tensor(tensor: Tensor) -> Mapping[str, Any]:
    """Return the config that the tensor `latte_config` of a saved ComfyUI model holds.

    Its bytes are uint8, or float32 in a GGUF file, whose loaders know floating-point tensors only.

    Raises:
        CorruptCheckpointError: if it holds none.
    """
    values = tensor.reshape(-1)[: MAX_CONFIG_BYTES + 1]
    name = f"The tensor {CONFIG_TENSOR}"
    if values.dtype == torch.float32 and bool(((values >= 0) & (values <= 255)).all()):
        values = values.to(torch.uint8)
    if values.dtype != torch.uint8 or values.numel() > MAX_CONFIG_BYTES:
        raise damaged(name, "it does not hold the bytes of a config")
    numbers: Any = values
    return json_object(name, bytes(numbers.tolist()))


def states_heads(stated: Mapping[str, Any]) -> bool:
    """Return whether a config tells the head count, which weights do not show."""
    return "num_attention_heads" in stated or "attention_head_dim" in stated


def is_config_of(class_names: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Return whether a config.json can be one with these class names; many do not state theirs."""
    return values.get("_class_name", class_names[0]) in class_names


def is_t2v_config(values: Mapping[str, Any]) -> bool:
    """Return whether a config.json can be that of a LatteT2V, judged by its class name."""
    return is_config_of(T2V_CLASS_NAMES, values)


def join(first: Mapping[str, int], stated: Mapping[str, Any]) -> LatteT2VConfig:
    """Join what the weights show with what a config states; they must not contradict."""
    inferred = infer(first)
    values = {key: value for key, value in stated.items() if key not in LEGACY_KEYS}
    hidden = inferred["hidden_size"]
    heads, width = head_sizes(values, hidden)
    defaults = {
        "num_layers": inferred["num_layers"],
        "patch_size": inferred["patch_size"],
        "in_channels": inferred["in_channels"],
        "out_channels": inferred["out_channels"],
        "cross_attention_dim": hidden,
    }
    joined = LatteT2VConfig.from_dict(
        {**defaults, **values, "num_attention_heads": heads, "attention_head_dim": width}
    )
    check_against_weights(joined, inferred, first)
    return joined


def head_sizes(values: Mapping[str, Any], hidden: int) -> tuple[object, object]:
    """Return heads and their width as stated, or completed from each other and the hidden size."""
    heads: object = values.get("num_attention_heads")
    width: object = values.get("attention_head_dim")
    if "num_attention_heads" not in values:
        heads = quotient(hidden, width) or RELEASED_HEADS
    if "attention_head_dim" not in values:
        width = quotient(hidden, heads)
        if not width:
            raise WeightMismatchError(
                f"The weights have a hidden size of {hidden}, which {heads} attention heads do not "
                "divide. Give the config.json that came with them."
            )
    return heads, width


def quotient(whole: int, part: object) -> int:
    """Return `whole` / `part` if `part` is a whole number that divides it, else 0."""
    return whole // part if is_whole(part, low=1) and whole % part == 0 else 0


def infer(first: Mapping[str, int]) -> dict[str, int]:
    """Return what names and first dimensions show."""
    rows = first.get("proj_out.weight", 0)
    out_channels, patch_size = LatteT2VConfig().out_channels, 0
    for channels in (8, 4):
        edge = isqrt(rows // channels)
        if edge and edge * edge * channels == rows:
            out_channels, patch_size = channels, edge
    return {
        "num_layers": count_blocks(first, TEMPORAL_BLOCK),
        "hidden_size": first[T2V_MARK],
        "in_channels": 4,
        "out_channels": out_channels,
        "patch_size": patch_size or 2,
    }


def count_blocks(names: Mapping[str, int], start: str) -> int:
    """Return how many blocks there are, by the highest number behind `start`."""
    numbers = {
        name.removeprefix(start).split(".", 1)[0] for name in names if name.startswith(start)
    }
    return max((int(number) + 1 for number in numbers if is_index(number)), default=0)


def is_index(text: str) -> bool:
    """Return whether `text` is a block number."""
    return text.isascii() and text.isdigit() and len(text) <= 6


def check_against_weights(
    config: LatteT2VConfig, inferred: Mapping[str, int], first: Mapping[str, int]
) -> None:
    """Refuse a config that describes another model than the weights."""
    rows = first.get("proj_out.weight", 0)
    facts = {
        "layers": (config.num_layers, inferred["num_layers"]),
        "hidden size": (config.hidden_size, inferred["hidden_size"]),
        "output rows": (config.patch_size**2 * config.out_channels, rows),
    }
    for name, (stated, found) in facts.items():
        if found and stated != found:
            raise WeightMismatchError(
                f"The config gives {name} {stated}, but the weights have {found}. "
                "Use the config.json that came with these weights, or none."
            )
