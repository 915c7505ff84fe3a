"""Read LoRA files of any trainer, and name them as ComfyUI does (docs/comfyui.md 7)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...checks import is_number
from ...config.t2v import LatteT2VConfig
from ...errors import CorruptCheckpointError, IncompatibleInputsError, UnknownArchitectureError
from ...model.weights.lora import NATIVE_PREFIX
from ...model.weights.merge import DOWN_PARTS, UP_PARTS
from ..reading.records import shown
from ..recognition.detect import Shaped, is_index
from ..recognition.layout import t2v_modules

SETTINGS_KEY = "lora_adapter_metadata"  # diffusers keeps PEFT's settings here
WRAPPERS = re.compile(
    r"(?:(?:base_model\.model|diffusion_model|transformer|model|module|_orig_mod)\.)+"
)
KOHYA = re.compile(r"lora_(?:unet|transformer)_")
PARTS = re.compile(
    r"\.(?=(?:lora_A|lora_B|lora_up|lora_down|lora_mid|lora\.up|lora\.down|lora_magnitude_vector"
    r"|lora_embedding|hada_|lokr_|oft_|boft_|alpha$|dora_scale$|diff$|diff_b$|reshape_weight$))"
)
ADAPTER_NAME = re.compile(r"(lora_[AB]|lora_magnitude_vector)\.(?!weight$)[^.]+(\.weight)?")
TEMPORAL_START = "temporal_transformer_blocks."
NUMBERED_START = "blocks."
MOST_LAYERS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraWeights:
    """A LoRA with native names.

    Args:
        tensors: `diffusion_model.<layer>.<part>` -> tensor.
        matched: layers of Latte that it changes.
        unmatched: names in the file that belong to no layer of Latte.
    """

    tensors: dict[str, Tensor]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def is_spatial_only(self) -> bool:
        """Whether no temporal block is changed, as with a LoRA made for an image model."""
        return not any(name.startswith(TEMPORAL_START) for name in self.matched)

    @property
    def sentence(self) -> str:
        """Say how much of the file is used."""
        kind = (
            " (spatial layers only)" if self.is_spatial_only else " (spatial and temporal layers)"
        )
        if any(name.startswith(NUMBERED_START) for name in self.matched):
            kind = ""  # models without text number both kinds through
        text = f"The LoRA changes {len(self.matched)} layers of Latte{kind}."
        if self.unmatched:
            some = ", ".join(shown(name) for name in self.unmatched[:5])
            text += f" {len(self.unmatched)} names were not used: {some}."
        return text


def native_lora(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Shaped] | None = None,
) -> LoraWeights:
    """Rename a LoRA from PEFT's, kohya's or our own names.

    Args:
        name: base name of the file, for messages.
        metadata: text entries of the file; PEFT's settings may be in them.
        settings: PEFT's adapter_config.json, if there is one beside the file.
        shapes: released name -> weight of the model it is for; checked if given.

    Raises:
        UnknownArchitectureError: if not a single layer of Latte is changed.
        IncompatibleInputsError: if a layer has another size than in `shapes`.
        CorruptCheckpointError: if the settings in `metadata` cannot be read.
    """
    layers = known_layers(tensors, shapes)
    by_underscore = {layer.replace(".", "_"): layer for layer in layers}
    renamed: dict[str, Tensor] = {}
    matched: dict[str, None] = {}
    unmatched: list[str] = []
    for key, value in tensors.items():
        layer, part = split_name(key)
        found = find_layer(layer, layers, by_underscore)
        if found is None or not part:
            unmatched.append(key)
            continue
        matched[found] = None
        renamed[f"{NATIVE_PREFIX}{found}.{part}"] = shape_part(part, value)
    if not matched:
        some = ", ".join(shown(key) for key in list(tensors)[:3])
        raise UnknownArchitectureError(
            f"{name} changes no layer of Latte: none of its {len(tensors)} names fits ({some}). "
            "It was made for another model; choose a LoRA for Latte or PixArt-alpha."
        )
    if len(renamed) + len(unmatched) < len(tensors):
        raise CorruptCheckpointError(
            f"{name} holds the same layer under two names. Ask for a LoRA saved by one tool."
        )
    add_alphas(renamed, matched, settings or settings_in(name, metadata))
    check_sizes(name, renamed, matched, shapes)
    return LoraWeights(tensors=renamed, matched=tuple(matched), unmatched=tuple(unmatched))


def known_layers(names: Iterable[str], shapes: Mapping[str, Shaped] | None) -> frozenset[str]:
    """Return the layers of the model, or those of a LatteT2V as deep as the file needs."""
    if shapes is not None:
        return frozenset(
            name.removesuffix(".weight") for name in shapes if name.endswith(".weight")
        )
    numbers = [match[1] for name in names for match in re.finditer(r"blocks[._](\d+)", name)]
    depth = max((int(number) + 1 for number in numbers if is_index(number)), default=1)
    return frozenset(t2v_modules(LatteT2VConfig(num_layers=min(max(depth, 28), MOST_LAYERS))))


def split_name(key: str) -> tuple[str, str]:
    """Split a name into the layer and the part of the LoRA, PEFT's adapter name removed."""
    match = PARTS.search(key)
    if match is None:
        return key, ""
    part = key[match.end() :]
    named = ADAPTER_NAME.fullmatch(part)
    part = f"{named[1]}{named[2] or ''}" if named else part
    if part in ("lora_magnitude_vector", "lora_magnitude_vector.weight"):
        part = "dora_scale"
    return key[: match.start()], part


def find_layer(name: str, layers: frozenset[str], by_underscore: Mapping[str, str]) -> str | None:
    """Return the layer of Latte that a name means, or None."""
    plain = WRAPPERS.sub("", name, count=1) if WRAPPERS.match(name) else name
    if plain in layers:
        return plain
    return by_underscore.get(KOHYA.sub("", plain, count=1))


def shape_part(part: str, value: Tensor) -> Tensor:
    """Return a tensor in the shape that the native format has; DoRA sizes are a column."""
    return value.reshape(-1, 1) if part == "dora_scale" and value.dim() == 1 else value


def settings_in(name: str, metadata: Mapping[str, str] | None) -> Mapping[str, Any]:
    """Return PEFT's settings from the metadata that diffusers writes, without their prefix."""
    text = (metadata or {}).get(SETTINGS_KEY)
    if text is None:
        return {}
    try:
        table: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{name} has settings ({SETTINGS_KEY}) that are not readable JSON. Download it again."
        ) from error
    if not isinstance(table, dict):
        return {}
    entries = cast("dict[str, Any]", table)
    return {key.removeprefix("transformer."): value for key, value in entries.items()}


def add_alphas(
    tensors: dict[str, Tensor], layers: Iterable[str], settings: Mapping[str, Any]
) -> None:
    """Add the strength of each layer where the file states it only in PEFT's settings.

    PEFT scales by alpha / rank, or by alpha / sqrt(rank) with `use_rslora`; the native format
    divides the alpha tensor by the rank.
    """
    for layer in layers:
        key = f"{NATIVE_PREFIX}{layer}.alpha"
        down = part_of(tensors, layer, DOWN_PARTS)
        alpha = stated_alpha(layer, settings)
        if key in tensors or down is None or alpha is None:
            continue
        if settings.get("use_rslora") is True:
            alpha *= down.shape[0] ** 0.5
        tensors[key] = torch.tensor(alpha, dtype=torch.float32)


def stated_alpha(layer: str, settings: Mapping[str, Any]) -> float | None:
    """Return the alpha that PEFT's settings give for a layer; a pattern names the layer's end."""
    alpha: object = settings.get("lora_alpha")
    patterns: object = settings.get("alpha_pattern")
    if isinstance(patterns, dict):
        for pattern, value in cast("dict[str, object]", patterns).items():
            if layer == pattern or layer.endswith(f".{pattern}"):
                alpha = value
    return float(alpha) if is_number(alpha) else None


def part_of(tensors: Mapping[str, Tensor], layer: str, parts: Iterable[str]) -> Tensor | None:
    """Return the first of several spellings of a part that a layer has."""
    keys = (f"{NATIVE_PREFIX}{layer}.{part}" for part in parts)
    return next((tensors[key] for key in keys if key in tensors), None)


def check_sizes(
    name: str,
    tensors: Mapping[str, Tensor],
    layers: Iterable[str],
    shapes: Mapping[str, Shaped] | None,
) -> None:
    """Refuse a LoRA whose layers are wider or narrower than the model's."""
    for layer in layers if shapes is not None else ():
        up = part_of(tensors, layer, UP_PARTS)
        rows = (shapes or {})[f"{layer}.weight"].shape[0]
        if up is not None and up.shape[0] != rows:
            raise IncompatibleInputsError(
                f"{name} does not fit this model: layer {layer} has {up.shape[0]} rows in the LoRA "
                f"and {rows} in the model. It was made for a model of another width."
            )
