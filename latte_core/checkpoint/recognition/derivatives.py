"""Models with Latte's names that are others: Skip-DiT by weights, Open-Sora-Plan by config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import UnknownArchitectureError

SKIP_MARKS = ("skip_linears.", "skip_norms.")
# Keys that the config of Open-Sora-Plan's LatteT2V has and Latte's has not. Nothing in the weights
# of its versions 1.0 and 1.1 differs from Latte-1's.
PLAN_KEYS = (
    "compress_kv_factor",
    "interpolation_scale_1d",
    "interpolation_scale_h",
    "model_max_length",
    "use_rope",
)


def has_skips(names: Iterable[str]) -> bool:
    """Return whether a Latte has Skip-DiT's long connections, behind any prefix."""
    return any(f".{name}".find(f".{mark}") >= 0 for name in names for mark in SKIP_MARKS)


def is_open_sora_plan(values: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of Open-Sora-Plan's transformer."""
    is_pair = isinstance(values.get("sample_size"), (list, tuple))
    return is_pair or any(key in values for key in PLAN_KEYS)


def refuse_open_sora_plan(place: str, values: Mapping[str, Any]) -> None:
    """Refuse the config of Open-Sora-Plan's transformer by its name.

    Args:
        place: where it stood, such as "beside t2v.safetensors".
        values: the config.

    Raises:
        UnknownArchitectureError: saying what it needs.
    """
    if is_open_sora_plan(values):
        raise UnknownArchitectureError(
            f"The config {place} is Open-Sora-Plan's: its transformer has Latte's names, but other "
            "positions, 300 text tokens and a causal video VAE, which are not supported. Choose a "
            "file of Latte-1, or the starter."
        )
