"""Which transformer a file holds, and its config: from the caller, the file, or beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UnknownArchitectureError
from ..reading.folders import CONFIG_NAME, config_beside
from ..reading.records import FileHeader, TensorFile, shown
from .architectures import T2V, Architecture, Config, find_architecture
from .derivatives import refuse_open_sora_plan
from .detect import CONFIG_KEY, config_in, config_in_tensor, plain
from .identify import identify_header
from .names import CONFIG_TENSOR, Selection

log = logging.getLogger("latte")


def found_in(
    header: FileHeader, accepted: tuple[Architecture, ...]
) -> tuple[Architecture, Selection]:
    """Return the transformer that a file holds, with its names inside the file.

    Raises:
        UnknownArchitectureError: if it is none of `accepted`, saying what the file is and what
            opens it.
    """
    found = find_architecture(header.tensors)
    if found is None or found[0] not in accepted:
        purposes = " or ".join(architecture.purpose for architecture in accepted)
        raise UnknownArchitectureError(
            f"{header.name} cannot be used as {purposes}. {identify_header(header).sentence}"
        )
    return found


def saved_config(file: TensorFile, selection: Selection) -> Mapping[str, Any] | None:
    """Return the config that ComfyUI's "Save Model" kept among the tensors, or None."""
    name = selection.names.get(CONFIG_TENSOR)
    return None if name is None else config_in_tensor(file.tensors[name])


def settle_config(
    header: FileHeader,
    path: Path,
    config: Mapping[str, Any] | Config | None,
    found: tuple[Architecture, Selection],
    *,
    saved: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config: the caller's settings over the file's own, or over those beside it.

    Args:
        path: the file or folder; a config.json there serves where the file itself has no config.
        config: the caller's settings.
        saved: config found among the tensors.

    Raises:
        InvalidInputError: if the caller's `config` cannot be used.
        CheckpointError: if the file's, or the one beside it, cannot.
    """
    architecture, selection = found
    shapes = {
        short: header.tensors[name]
        for short, name in selection.names.items()
        if short != CONFIG_TENSOR
    }
    own: Mapping[str, Any] = {**(config_in(header.metadata) or {}), **(saved or {})}
    place = f"in {header.name}"
    if saved is None and CONFIG_KEY not in header.metadata:
        own, place = usable_config(path, architecture), f"beside {header.name}"
    if architecture is T2V:
        refuse_open_sora_plan(place, own)
    given = plain(config)
    settled = architecture.config_of(shapes, own, given, place=place)
    remark = architecture.remark(settled, own, given or {})
    if remark:
        log.warning("%s: %s", header.name, remark)
    return settled


def usable_config(path: Path, architecture: Architecture) -> Mapping[str, Any]:
    """Return the config.json beside the weights unless it says that it is another model's."""
    values = config_beside(path)
    if values is not None and not architecture.owns_config(values):
        log.warning(
            "The %s beside %s is for %s and is not used.",
            CONFIG_NAME,
            path.name,
            shown(str(values.get("_class_name"))),
        )
        return {}
    return values or {}
