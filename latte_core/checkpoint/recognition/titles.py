"""What a transformer is called in a sentence: its kind, its published size, its classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from ...config.latte import SIZES, LatteConfig
from ...config.t2v import LatteT2VConfig
from .families import CLASS_NODE, MODEL_NODE, UNCONDITIONAL_NODE, Family, advice_for

# Starts of the published files' names -> (data set, classes) (docs/model.md 9.1)
DATA_SETS: Mapping[str, tuple[str, int]] = {
    "ffs": ("FaceForensics", 0),
    "skytimelapse": ("SkyTimelapse", 0),
    "taichi-hd": ("Taichi-HD", 0),
    "ucf101": ("UCF101", 101),
}


def family_of_config(config: LatteT2VConfig | LatteConfig) -> Family:
    """Return the family of a model with this config."""
    if isinstance(config, LatteT2VConfig):
        return Family.LATTE_T2V
    return Family.LATTE_CLASS if config.has_temporal else Family.DIT


def title_of(config: LatteT2VConfig | LatteConfig) -> str:
    """Return what a model is, such as "a class-conditional Latte-XL/2 with 101 classes"."""
    if isinstance(config, LatteT2VConfig):
        return Family.LATTE_T2V.value
    name = size_of(config)
    if not config.has_temporal:
        name = f"{name} image model"
    if config.variant != 1:
        name = f"{name} of variant {config.variant}"
    if config.conditioning == "class":
        kind = "a class-conditional" if config.has_temporal else "a"
        return f"{kind} {name} with {config.num_classes} classes"
    return (
        f"a CLIP-text {name}" if config.conditioning == "clip_text" else f"an unconditional {name}"
    )


def size_of(config: LatteConfig) -> str:
    """Return the published name of a size, or depth and width where it has none."""
    start = "Latte" if config.has_temporal else "DiT"
    found = (config.depth, config.hidden_size, config.num_heads)
    for size in SIZES:
        preset = LatteConfig.preset(f"Latte-{size}/2", variant=config.variant)
        if found == (preset.depth, preset.hidden_size, preset.num_heads):
            return f"{start}-{size}/{config.patch_size}"
    return f"{start} ({config.depth} blocks, width {config.hidden_size}, patch {config.patch_size})"


def sized_title(config: LatteT2VConfig | LatteConfig) -> str:
    """Return what a model is, with the sizes that weights must agree with."""
    if isinstance(config, LatteConfig):
        return title_of(config)
    return f"{title_of(config)} of {t2v_size(config)}"


def nearest_size(config: LatteT2VConfig | LatteConfig) -> str:
    """Return the published model that is nearest in size, with its numbers."""
    if isinstance(config, LatteT2VConfig):
        return f"Latte-1: {t2v_size(LatteT2VConfig())}"
    found = (config.hidden_size, config.depth)
    distances = {
        size: (abs(width - found[0]), abs(depth - found[1]))
        for size, (depth, width, _) in SIZES.items()
    }
    size = min(distances, key=lambda name: distances[name])
    depth, width, heads = SIZES[size]
    return f"Latte-{size}: {depth} blocks, width {width}, {heads} heads"


def t2v_size(config: LatteT2VConfig) -> str:
    """Return the sizes of a LatteT2V."""
    return (
        f"{config.num_layers} layers, width {config.hidden_size}, text width "
        f"{config.caption_channels}"
    )


def advice_of(config: LatteT2VConfig | LatteConfig) -> str:
    """Return the sentence that says which nodes open a model and say what it shows."""
    if isinstance(config, LatteT2VConfig):
        return advice_for(Family.LATTE_T2V)
    if config.conditioning == "clip_text":
        return "Use latte_core.load_transformer in Python; no node gives it CLIP text."
    is_class = config.conditioning == "class"
    nodes = f"Use {MODEL_NODE} with {CLASS_NODE if is_class else UNCONDITIONAL_NODE}"
    return f"{nodes}." if config.has_temporal else f"{nodes}; it makes single images, no video."


def data_set_of(name: str, config: LatteT2VConfig | LatteConfig) -> str:
    """Return the data set that a published file's name tells, if the model can be of it, or ""."""
    if isinstance(config, LatteT2VConfig) or not config.has_temporal:
        return ""
    stem = PurePath(name).stem.lower().replace("_", "-")
    for start, (data_set, num_classes) in DATA_SETS.items():
        is_named = stem == start or stem.startswith(f"{start}-")
        if is_named and config.num_classes == num_classes:
            return data_set
    return ""
