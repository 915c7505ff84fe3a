"""Read LoRA files of any trainer, and name them as ComfyUI does (docs/comfyui.md 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...config.t2v import LatteT2VConfig
from ...errors import CorruptCheckpointError, IncompatibleInputsError, UnknownArchitectureError
from ...model.weights.lora import ALPHA_NAME, NATIVE_PREFIX
from ..reading.records import shown
from ..recognition.detect import Shaped, is_index
from ..recognition.layout import t2v_modules
from .matrices import add_alphas, check_matrices, idle_layers
from .settings import adapter_settings, settings_in

# What trainers put before a layer's name, in any order and number: PEFT, diffusers, PixArt's
# trainer, torch's own wrappers.
WRAPPER_NAMES = (
    *("base_model.model", "diffusion_model", "transformer", "unet"),
    *("model", "module", "_orig_mod", "pipe", "dit", "denoiser"),
)
WRAPPERS = re.compile(f"(?:(?:{'|'.join(map(re.escape, WRAPPER_NAMES))})\\.)+")
# Those that are met in files, whole: a table of names, as ComfyUI has one, needs an end.
DOTTED_STARTS = (
    *("", "transformer.", "unet.", "model.", "module.", "base_model.model."),
    *("unet.base_model.model.", "transformer.base_model.model.", "base_model.model.transformer."),
    *("base_model.model.unet.", "model.diffusion_model."),
)
KOHYA_STARTS = ("lora_unet_", "lora_transformer_", "lycoris_")  # before names with underscores
KOHYA = re.compile("|".join(KOHYA_STARTS))
PEFT_START = "base_model.model."  # what follows it is the name that PEFT gave to a layer
PARTS = re.compile(
    r"\.(?=(?:lora_A|lora_B|lora_up|lora_down|lora_mid|lora\.up|lora\.down|lora_magnitude_vector"
    r"|lora_embedding|lora_linear_layer|lora_E|hada_|lokr_|oft_|boft_|alpha$|dora_scale$|diff$"
    r"|diff_b$|reshape_weight$))"
)
ADAPTER_NAME = re.compile(r"(lora_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)[^.]+(\.weight)?")
OLD_DIFFUSERS = re.compile(r"(.+)\.processor\.(to_[a-z]+)_lora\.((?:up|down)\.weight)")
LINEAR_LAYER = "lora_linear_layer."
# Parts that no host here would apply, so that the rest of the file would mean something else.
STRANGE_PARTS = re.compile(r"lora_(?:(?:A|B|up|down|mid|linear_layer)\b.*bias|embedding|E).*")
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
        idle: those of `matched` that stay as they are, since the file holds zeros for them.
    """

    tensors: dict[str, Tensor]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    idle: tuple[str, ...] = ()

    @property
    def has_alpha(self) -> bool:
        """Whether the file or its settings state an alpha; without one it counts as the rank."""
        return any(name.endswith(f".{ALPHA_NAME}") for name in self.tensors)

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
        count, idle = len(self.matched), len(self.idle)
        text = f"The LoRA changes {count} layers of Latte{kind}."
        if idle == count:
            text = (
                f"The LoRA has no effect: its numbers for all {count} layers of Latte{kind} are "
                "zero, as in one that was not trained."
            )
        elif idle:
            text = (
                f"The LoRA changes {count - idle} of {count} layers of Latte{kind}; its numbers "
                f"for the other {idle} are zero."
            )
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
        IncompatibleInputsError: if a layer has another size than in `shapes`, or it is an adapter
            of a kind that is not applied here.
        CorruptCheckpointError: if matrices are missing, or an alpha or the settings cannot be used.
    """
    layers = known_layers(tensors, shapes)
    by_underscore = {layer.replace(".", "_"): layer for layer in layers}
    renamed: dict[str, Tensor] = {}
    matched: dict[str, str] = {}
    unmatched: list[str] = []
    for key, value in tensors.items():
        layer, part = split_name(key)
        found = find_layer(layer, layers, by_underscore)
        if found is None or not part:
            unmatched.append(key)
            continue
        if STRANGE_PARTS.fullmatch(part):
            raise IncompatibleInputsError(
                f"{name} holds {shown(key)}, a part of an adapter that is not applied here; without"
                " it the others would mean something else. Train or choose a LoRA without it."
            )
        matched[found] = layer.rpartition(PEFT_START)[2]
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
    check_matrices(name, renamed, matched, shapes)
    stated = adapter_settings(name, settings or settings_in(name, metadata))
    add_alphas(name, renamed, matched, stated)
    return LoraWeights(
        tensors=renamed,
        matched=tuple(matched),
        unmatched=tuple(unmatched),
        idle=idle_layers(renamed, matched),
    )


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
    old = OLD_DIFFUSERS.fullmatch(key)
    if old is not None:
        return f"{old[1]}.{old[2]}" + (".0" if old[2] == "to_out" else ""), f"lora.{old[3]}"
    match = PARTS.search(key)
    if match is None:
        return key, ""
    part = key[match.end() :]
    named = ADAPTER_NAME.fullmatch(part)
    part = f"{named[1]}{named[2] or ''}" if named else part
    if part in ("lora_magnitude_vector", "lora_magnitude_vector.weight"):
        part = "dora_scale"
    if part in ("lora_A", "lora_B"):
        part += ".weight"
    if part.startswith(LINEAR_LAYER):
        part = f"lora.{part.removeprefix(LINEAR_LAYER)}"
    return key[: match.start()], part


def find_layer(name: str, layers: frozenset[str], by_underscore: Mapping[str, str]) -> str | None:
    """Return the layer of Latte that a name means, or None."""
    plain = WRAPPERS.sub("", name, count=1) if WRAPPERS.match(name) else name
    if plain in layers:
        return plain
    return by_underscore.get(KOHYA.sub("", plain, count=1) if KOHYA.match(plain) else plain)


def spellings(layer: str) -> Iterator[str]:
    """Yield the names by which files know a layer, for hosts that look names up in a table."""
    for start in DOTTED_STARTS:
        yield f"{start}{layer}"
    for start in KOHYA_STARTS:
        yield start + layer.replace(".", "_")


def shape_part(part: str, value: Tensor) -> Tensor:
    """Return a tensor in the shape that the native format has; DoRA sizes are a column."""
    return value.reshape(-1, 1) if part == "dora_scale" and value.dim() == 1 else value
