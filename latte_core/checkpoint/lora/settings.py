"""PEFT's settings of a LoRA: which alpha and rank each layer has.

They stand in `adapter_config.json`, which belongs to `adapter_model.*` in its folder and to no
other file, or in the metadata that diffusers writes. Patterns are regular expressions that match
the end of a layer's name; the first that does counts, as in PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...checks import is_whole
from ...errors import CorruptCheckpointError, IncompatibleInputsError
from ...files import json_object
from ...model.weights.alpha import MOST_ALPHA, is_alpha
from ..reading.folders import config_beside
from ..reading.records import shown

PEFT_SETTINGS = "adapter_config.json"
PEFT_STEM = "adapter_model"  # of the file that those settings belong to
SETTINGS_KEY = "lora_adapter_metadata"  # diffusers keeps PEFT's settings here
PARTS_OF_PIPELINES = ("transformer.", "unet.")  # before each key there
ALPHA_KEYS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}  # by PEFT's name of the kind
BASE_CHANGING = ("pissa", "olora", "corda", "loftq")  # ways to begin that alter the base model
MOST_RANK = 2**20
MOST_PATTERNS = 4096
PATTERN_LENGTH = 300
# Patterns come from files of strangers, and some take forever: a repeated group that repeats
# inside, or many wildcards one after the other.
REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")
REPEAT = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\d*\})")
MOST_REPEATS = 4

Pattern = tuple[re.Pattern[str], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSettings:
    """What PEFT's settings say of alpha and rank.

    Args:
        alpha: of layers that no pattern names; None if it is not stated.
        rank: likewise.
        alphas: patterns of layers' names, and their alpha.
        ranks: patterns of layers' names, and their rank.
        use_rslora: whether alpha is divided by the root of the rank, not by the rank.
    """

    alpha: float | None = None
    rank: float | None = None
    alphas: tuple[Pattern, ...] = ()
    ranks: tuple[Pattern, ...] = ()
    use_rslora: bool = False

    def alpha_of(self, names: Iterable[str]) -> float | None:
        """Return the alpha of a layer that goes by these names; None if it is not stated."""
        return first_match(self.alphas, names, self.alpha)

    def rank_of(self, names: Iterable[str]) -> float | None:
        """Return the rank of a layer that goes by these names; None if it is not stated."""
        return first_match(self.ranks, names, self.rank)


def first_match(
    patterns: Iterable[Pattern], names: Iterable[str], otherwise: float | None
) -> float | None:
    """Return the number of the first pattern that matches one of several names."""
    spelled = tuple(names)
    for pattern, value in patterns:
        if any(pattern.match(name) for name in spelled):
            return value
    return otherwise


def peft_settings(file: Path) -> Mapping[str, Any] | None:
    """Return what `adapter_config.json` says of a file, if it stands beside it and is its own.

    Raises:
        CheckpointError: if it cannot be read.
    """
    return config_beside(file, PEFT_SETTINGS) if settings_file(file) else None


def settings_file(file: Path) -> Path | None:
    """Return the settings that stand beside a LoRA and are its own, if there are any."""
    settings = file.with_name(PEFT_SETTINGS)
    return settings if file.stem == PEFT_STEM and settings.is_file() else None


def settings_in(name: str, metadata: Mapping[str, str] | None) -> Mapping[str, Any]:
    """Return PEFT's settings from the metadata that diffusers writes, without their prefix.

    Raises:
        CorruptCheckpointError: if they are no JSON object.
    """
    text = (metadata or {}).get(SETTINGS_KEY)
    if text is None:
        return {}
    found: dict[str, Any] = {}
    for key, value in json_object(f"{SETTINGS_KEY} of {name}", text).items():
        start = next((one for one in PARTS_OF_PIPELINES if key.startswith(one)), "")
        found[key.removeprefix(start)] = value
    return found


def adapter_settings(name: str, table: Mapping[str, Any]) -> AdapterSettings:
    """Return settings whose every value can be used.

    Args:
        name: base name of the LoRA, for messages.
        table: PEFT's settings; what concerns neither alpha nor rank is not looked at.

    Raises:
        CorruptCheckpointError: naming the key whose value cannot be used.
        IncompatibleInputsError: for an adapter of another kind, or one whose numbers only fit a
            base model that PEFT changed.
    """
    kind = table.get("peft_type")
    kind = "LORA" if kind is None else str(kind).rpartition(".")[2].upper()
    if kind not in ALPHA_KEYS:
        raise IncompatibleInputsError(
            f"{name} is an adapter of the kind {shown(kind)}, by its settings; LoRA, LoHa and LoKr "
            "can be used. Train or choose one of these."
        )
    start = str(table.get("init_lora_weights")).lower()
    if start.startswith(BASE_CHANGING):
        raise IncompatibleInputsError(
            f"{name} began as {shown(start)}, by its settings: it fits only a base model that PEFT "
            "changed. Save it in PEFT with path_initial_model_for_weight_conversion, which makes "
            "a plain LoRA of it."
        )
    use_rslora: object = table.get("use_rslora")
    if use_rslora is not None and not isinstance(use_rslora, bool):
        raise unusable(name, "use_rslora", use_rslora, "true or false")
    alpha, rank = table.get(ALPHA_KEYS[kind]), table.get("r")
    if alpha is not None and not is_alpha(alpha):
        raise unusable(name, ALPHA_KEYS[kind], alpha, expected_alpha())
    if rank is not None and not is_whole(rank, 1, MOST_RANK):
        raise unusable(name, "r", rank, "a whole number above 0")
    return AdapterSettings(
        alpha=None if alpha is None else float(alpha),
        rank=rank,
        alphas=patterns_in(name, table, "alpha_pattern"),
        ranks=patterns_in(name, table, "rank_pattern"),
        use_rslora=use_rslora is True,
    )


def expected_alpha() -> str:
    """Return what an alpha has to be, for messages."""
    return f"a number from {-MOST_ALPHA:.0f} to {MOST_ALPHA:.0f}"


def unusable(name: str, key: str, value: object, expected: str) -> CorruptCheckpointError:
    """Return the error for a value that settings cannot have."""
    return CorruptCheckpointError(
        f"The strength of {name} is not known: {key} is {shown(repr(value))} in its settings, but "
        f"it must be {expected}. Correct the settings, or get the LoRA again."
    )


def patterns_in(name: str, table: Mapping[str, Any], key: str) -> tuple[Pattern, ...]:
    """Return the patterns of a key with their numbers, in the order of the settings."""
    listed: object = table.get(key)
    if listed is None:
        return ()
    if not isinstance(listed, dict):
        raise unusable(name, key, listed, "a table of patterns and numbers")
    entries = cast("dict[str, object]", listed)
    if len(entries) > MOST_PATTERNS:
        raise unusable(name, key, f"a table of {len(entries)}", f"at most {MOST_PATTERNS} long")
    found: list[Pattern] = []
    for pattern, value in entries.items():
        place = f"{key}[{shown(pattern)}]"
        if key == "alpha_pattern" and not is_alpha(value):
            raise unusable(name, place, value, expected_alpha())
        if key == "rank_pattern" and not is_whole(value, 1, MOST_RANK):
            raise unusable(name, place, value, "a whole number above 0")
        found.append((compiled(name, key, pattern), float(cast("float", value))))
    return tuple(found)


def compiled(name: str, key: str, pattern: str) -> re.Pattern[str]:
    """Return a pattern as PEFT reads it: for the whole name of a layer, or for its end."""
    is_slow = REPEATED_GROUP.search(pattern) or len(REPEAT.findall(pattern)) > MOST_REPEATS
    if is_slow or len(pattern) > PATTERN_LENGTH:
        raise unusable(
            name,
            f"a pattern of {key}",
            pattern,
            f"at most {PATTERN_LENGTH} characters long, with at most {MOST_REPEATS} repeats and no "
            "repeated group, so that matching it ends",
        )
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        expected = f"a regular expression ({error})"
        raise unusable(name, f"a pattern of {key}", pattern, expected) from error
