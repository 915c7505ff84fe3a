"""Tell a person what a file is, whether it is whole, and which node opens it (R10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..config import LatteT2VConfig
from ..errors import CheckpointError, LatteError, UnknownArchitectureError
from .detect import (
    TEMPORAL_BLOCK,
    config_in,
    config_of,
    count_blocks,
    is_t2v_config,
    states_heads,
)
from .families import Family, advice_for, family_of, joined
from .folders import CONFIG_NAME, read_json
from .names import Selection, select_model
from .reader import read_header
from .records import FileHeader, FileKind, IncompleteFileError, size_text
from .sniff import file_size, kind_of, not_weights, open_weights, sniff

PIPELINE_NAME = "model_index.json"
LATTE_PIPELINES = ("LattePipeline",)
WEIGHT_KINDS = (
    FileKind.SAFETENSORS,
    FileKind.TORCH_ZIP,
    FileKind.TORCH_LEGACY,
    FileKind.PICKLE,
    FileKind.TRUNCATED,
    FileKind.FOLDER,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identification:
    """What a file is.

    Args:
        name: base name of the file or folder.
        family: which kind of model, or why it is none.
        title: the family in words, with its size where that is known.
        sentence: what it is and what to do with it, for a person.
        details: counts and settings found in the header.
        is_whole: False if bytes are missing.
    """

    name: str
    family: Family
    title: str
    sentence: str
    details: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    is_whole: bool = True


def identify(path: Path | str) -> Identification:
    """Say what a file or folder is from its header alone.

    Raises:
        UnsafeCheckpointError: for a pickle that would import something.
        CorruptCheckpointError: for a weights file that contradicts itself.
        CheckpointError: for a file that cannot be opened.
    """
    path = Path(path)
    kind = sniff(path)
    if kind is FileKind.FOLDER and (path / PIPELINE_NAME).is_file():
        return identify_pipeline(path)
    if kind not in WEIGHT_KINDS:
        return unusable(path, Family.NOT_WEIGHTS, describe_other(path), is_whole=True)
    try:
        return identify_header(read_header(path))
    except IncompleteFileError as error:
        return unusable(path, Family.INCOMPLETE, str(error), is_whole=False)


def describe_other(path: Path) -> str:
    """Return the sentence for a file that is no weights."""
    with open_weights(path) as handle:
        return str(not_weights(path, kind_of(handle.read(4096)), file_size(handle)))


def unusable(path: Path, family: Family, sentence: str, *, is_whole: bool) -> Identification:
    """Return the identification of something that cannot be loaded."""
    return Identification(
        name=path.name, family=family, title=family.value, sentence=sentence, is_whole=is_whole
    )


def identify_pipeline(path: Path) -> Identification:
    """Identify a diffusers folder by its model_index.json."""
    pipeline = str(read_json(path / PIPELINE_NAME).get("_class_name"))[:60]
    if pipeline in LATTE_PIPELINES:
        family, title = Family.LATTE_FOLDER, Family.LATTE_FOLDER.value
    else:
        family, title = Family.UNKNOWN, f"a diffusers folder for {pipeline}"
    sentence = f"This is {title}. {advice_for(family)}"
    return Identification(
        name=path.name,
        family=family,
        title=title,
        sentence=sentence,
        details={"pipeline": pipeline},
    )


def identify_header(header: FileHeader) -> Identification:
    """Identify a file whose header has been read."""
    family = family_of({name: info.shape for name, info in header.tensors.items()})
    details = count_details(header)
    selection = select_model(header.tensors) if family is Family.LATTE_T2V else None
    if selection is not None:
        details.update(t2v_details(header, selection))
    sentence = f"This is {family.value}. {advice_for(family)}"
    if not header.is_whole:
        sentence = (
            f"This is {family.value}, but it is incomplete: it has {header.num_bytes} bytes, "
            f"expected {header.expected_bytes}. Download it again."
        )
    return Identification(
        name=header.name,
        family=family,
        title=family.value,
        sentence=sentence,
        details=details,
        is_whole=header.is_whole,
    )


def count_details(header: FileHeader) -> dict[str, str | int]:
    """Return counts that every file has."""
    types = Counter(info.type_name for info in header.tensors.values())
    details: dict[str, str | int] = {
        "format": header.kind.value,
        "size": size_text(header.num_bytes),
        "tensors": len(header.tensors),
        "parameters": sum(prod(info.shape) for info in header.tensors.values()),
        "types": ", ".join(f"{name} x {count}" for name, count in types.most_common(5)),
    }
    if header.container:
        details["container"] = ".".join(header.container)
    return details


def t2v_details(header: FileHeader, selection: Selection) -> dict[str, str | int]:
    """Return the settings of a LatteT2V, or why its config cannot be used."""
    shapes = {short: header.tensors[name] for short, name in selection.names.items()}
    is_averaged = selection.is_ema or "ema" in header.container
    details: dict[str, str | int] = {
        "layers": count_blocks({name: 0 for name in shapes}, TEMPORAL_BLOCK),
        "weights": "averaged (EMA)" if is_averaged else "plain",
    }
    if selection.prefix:
        details["prefix"] = selection.prefix
    try:
        stated = {**(config_in(header.metadata) or {}), **(file_config(header) or {})}
        config = config_of(shapes, header.metadata, config=stated)
    except LatteError as error:
        return {**details, "config": str(error)}
    details.update({"width": config.hidden_size, "patch": config.patch_size})
    if states_heads(stated) or config.hidden_size == LatteT2VConfig().hidden_size:
        details["heads"] = config.num_attention_heads
    return details


def file_config(header: FileHeader) -> Mapping[str, object] | None:
    """Return the config.json beside a file that carries none itself."""
    beside = header.files[0].with_name(CONFIG_NAME)
    if "config" in header.metadata or not beside.is_file():
        return None
    values = read_json(beside)
    return values if is_t2v_config(values) else None


def require_family(path: Path | str, wanted: Family | Iterable[Family], purpose: str) -> None:
    """Refuse a file of another family, before any of its tensors is read.

    Args:
        wanted: the families that the caller can open.
        purpose: what it would be used as, for example "a text encoder".

    Raises:
        UnknownArchitectureError: for whole weights of another family, naming the right node.
        CheckpointError: for anything that is no whole weights file.
    """
    families = (wanted,) if isinstance(wanted, Family) else tuple(wanted)
    found = identify(path)
    if found.family in families and found.is_whole:
        return
    if found.family is Family.NOT_WEIGHTS or not found.is_whole:
        read_header(path)
        raise CheckpointError(found.sentence)
    expected = joined(family.value for family in families)
    raise UnknownArchitectureError(
        f"{found.name} cannot be used as {purpose}. {found.sentence} Expected {expected} here."
    )
