"""Tell a person what a file is, whether it is whole, and which node opens it (R10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from ...config.t2v import LatteT2VConfig
from ...errors import CheckpointError, LatteError, UnknownArchitectureError
from ...files import read_json
from ..reading.folders import MAX_CONFIG_BYTES, config_beside
from ..reading.reader import read_header
from ..reading.records import FileHeader, FileKind, IncompleteFileError, size_text
from ..reading.sniff import file_size, kind_of, not_weights, open_weights, sniff
from .architectures import T2V, Architecture, Config, find_architecture
from .derivatives import is_open_sora_plan
from .detect import TEMPORAL_BLOCK, config_in, count_blocks, states_heads
from .encoders import judge_t5
from .families import Family, advice_for, family_of, joined
from .names import CONFIG_TENSOR, Selection
from .titles import advice_of, data_set_of, family_of_config, title_of
from .vaes import judge_vae

PIPELINE_NAME = "model_index.json"
TRANSFORMER_FOLDER = "transformer"
LATTE_PIPELINES = ("LattePipeline",)
TRANSFORMERS = (Family.LATTE_T2V, Family.LATTE_CLASS, Family.DIT)
# What a part's loader says of a header; what it refuses is not recommended either.
JUDGES: Mapping[Family, Callable[[FileHeader], object]] = {
    Family.IMAGE_VAE: judge_vae,
    Family.TEMPORAL_VAE: judge_vae,
    Family.T5_ENCODER: judge_t5,
}
OTHERS: Mapping[Family, Family] = {
    Family.IMAGE_VAE: Family.OTHER_VAE,
    Family.TEMPORAL_VAE: Family.OTHER_VAE,
    Family.T5_ENCODER: Family.OTHER_TEXT,
}
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
    if kind is FileKind.FOLDER and (path / TRANSFORMER_FOLDER).is_dir():
        return replace(identify(path / TRANSFORMER_FOLDER), name=path.name)
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
    pipeline = str(read_json(path / PIPELINE_NAME, MAX_CONFIG_BYTES).get("_class_name"))[:60]
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
    found = Identification(
        name=header.name,
        family=family,
        title=family.value,
        sentence=f"This is {family.value}. {advice_for(family)}",
        details=count_details(header),
        is_whole=header.is_whole,
    )
    transformer = find_architecture(header.tensors) if family in TRANSFORMERS else None
    if transformer is not None:
        found = identify_transformer(header, found, *transformer)
    if family in JUDGES:
        found = judged(header, found)
    if header.is_whole:
        return found
    sentence = (
        f"This is {found.title}, but it is incomplete: it has {header.num_bytes} bytes, "
        f"expected {header.expected_bytes}. Download it again."
    )
    return replace(found, sentence=sentence)


def judged(header: FileHeader, found: Identification) -> Identification:
    """Return what is left of a recommendation once the part's own loader has judged the header."""
    try:
        JUDGES[found.family](header)
    except LatteError as error:
        other = OTHERS[found.family]
        sentence = f"It looks like {found.title}, but it cannot be used. {error}"
        return replace(found, family=other, title=other.value, sentence=sentence)
    return found


def identify_transformer(
    header: FileHeader, found: Identification, architecture: Architecture, selection: Selection
) -> Identification:
    """Add what a transformer's config says; a config among the tensors is not read here."""
    details = {**found.details, **selection_details(header, selection)}
    shapes = {short: header.tensors[name] for short, name in selection.names.items()}
    try:
        own = own_settings(header, architecture)
        if architecture is T2V and is_open_sora_plan(own):
            family = Family.OPEN_SORA_PLAN
            sentence = f"This is {family.value}. {advice_for(family)}"
            return replace(
                found, family=family, title=family.value, details=details, sentence=sentence
            )
        config = architecture.config_of(shapes, own, None)
    except LatteError as error:
        if CONFIG_TENSOR in shapes:
            return replace(found, details=details)
        sentence = found.sentence if architecture is T2V else f"This is {found.title}. {error}"
        return replace(found, details={**details, "config": str(error)}, sentence=sentence)
    data_set = data_set_of(header.name, config)
    by_name = f"By its name it was trained on {data_set}. " if data_set else ""
    return replace(
        found,
        family=family_of_config(config),
        title=title_of(config),
        details={**details, **config_details(config, own)},
        sentence=f"This is {title_of(config)}. {by_name}{advice_of(config)}",
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


def selection_details(header: FileHeader, selection: Selection) -> dict[str, str | int]:
    """Return which of a file's weights are a transformer's."""
    is_averaged = selection.is_ema or "ema" in header.container
    details: dict[str, str | int] = {"weights": "averaged (EMA)" if is_averaged else "plain"}
    if selection.prefix:
        details["prefix"] = selection.prefix
    pairs = count_blocks({name: 0 for name in selection.names}, TEMPORAL_BLOCK)
    return {"layers": pairs, **details} if pairs else details


def config_details(config: Config, own: Mapping[str, object]) -> dict[str, str | int]:
    """Return the settings that a person may want to know; a head count only if it is certain."""
    if isinstance(config, LatteT2VConfig):
        details: dict[str, str | int] = {"width": config.hidden_size, "patch": config.patch_size}
        if states_heads(own) or config.hidden_size == LatteT2VConfig().hidden_size:
            details["heads"] = config.num_attention_heads
        return details
    details = {
        "blocks": config.depth,
        "width": config.hidden_size,
        "patch": config.patch_size,
        "heads": config.num_heads,
        "pixels": 8 * config.input_size,
    }
    if config.has_temporal:
        details.update({"frames": config.num_frames, "variant": config.variant})
    if config.conditioning == "class":
        details["classes"] = config.num_classes
    return details


def own_settings(header: FileHeader, architecture: Architecture) -> Mapping[str, object]:
    """Return the config in a file's metadata, else the config.json beside it, else nothing."""
    inside = config_in(header.metadata)
    if inside is not None:
        return inside
    values = config_beside(header.files[0])
    return values if values is not None and architecture.owns_config(values) else {}


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


def require_vae(path: Path | str) -> None:
    """Refuse a file or folder that is no VAE of Latte's kind, from its header.

    Raises:
        CheckpointError: saying what it is instead.
    """
    require_family(path, (Family.IMAGE_VAE, Family.TEMPORAL_VAE), "a Latte VAE")


def require_t5(path: Path | str) -> None:
    """Refuse a file or folder that is no T5 v1.1 encoder, from its header.

    Raises:
        CheckpointError: saying what it is instead.
    """
    require_family(path, Family.T5_ENCODER, "Latte's text encoder")
