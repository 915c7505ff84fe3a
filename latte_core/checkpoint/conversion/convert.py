"""Turn any file or folder that holds a part of Latte into one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config.t2v import LatteT2VConfig
from ...errors import CheckpointError, InvalidInputError, UnknownArchitectureError
from ...precision.names import INT4_NAME
from ...precision.packing import PACKED, pack
from ...vae.found import find_vae
from ..loading.adapters import is_svd_layout, temporal_vae_to_svd
from ..loading.loader import weights_of
from ..loading.quantized import dequantize
from ..lora.layouts import native_lora
from ..lora.reader import lora_file
from ..lora.settings import peft_settings
from ..reading.reader import DIGEST_KEY, read_header, read_tensors
from ..reading.records import TensorFile, incomplete, size_text
from ..recognition.architectures import ARCHITECTURES
from ..recognition.detect import CONFIG_KEY
from ..recognition.detect_latte import TABLES
from ..recognition.families import Family, joined
from ..recognition.identify import PIPELINE_NAME, TRANSFORMER_FOLDER, identify, identify_header
from ..recognition.settle import found_in, saved_config, settle_config
from ..recognition.titles import family_of_config, title_of
from ..recognition.vaes import vae_settings
from ..writing.gguf_writer import GGUF_SUFFIX, GGUF_TYPES, refuse_without_gguf, write_gguf
from ..writing.writer import write_safetensors

SUFFIX = ".safetensors"
FOLDERS = {
    "transformer": TRANSFORMER_FOLDER,
    "class_transformer": TRANSFORMER_FOLDER,
    "image_transformer": TRANSFORMER_FOLDER,
    "temporal_vae": "vae_temporal_decoder",
    "image_vae": "vae",
    "text_encoder": "text_encoder",
}
TRANSFORMERS = ("transformer", "class_transformer", "image_transformer")
KINDS: dict[Family, str] = {
    Family.LATTE_T2V: "transformer",
    Family.LATTE_CLASS: "class_transformer",
    Family.DIT: "image_transformer",
    Family.TEMPORAL_VAE: "temporal_vae",
    Family.IMAGE_VAE: "image_vae",
    Family.T5_ENCODER: "text_encoder",
    Family.LORA: "lora",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What a conversion did.

    Args:
        source, target: base names.
        kind: which part of Latte it is.
        num_tensors, num_bytes: of the file written.
        sentence: the same for a person.
    """

    source: str
    target: str
    kind: str
    num_tensors: int
    num_bytes: int
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """Tensors ready to be written; `note` is added to the sentence, `kind` is what they turned out
    to be if their names did not tell."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    note: str = ""
    kind: str = ""


def convert(
    source: Path | str,
    target: Path | str,
    *,
    kind: str | None = None,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
) -> Conversion:
    """Write one safetensors or GGUF file from a .pt file, a folder, or a file with other names.

    Args:
        source: a file; a folder of shards; a whole model's folder, of which the transformer is
            taken unless `kind` names another part.
        target: name of the new file, ending in .safetensors, or in .gguf for transformers; an
            older one is replaced.
        kind: "transformer" (text-to-video), "class_transformer", "image_transformer",
            "temporal_vae", "image_vae", "text_encoder" or "lora"; None finds out. Temporal VAE and
            LoRA get the names that ComfyUI reads.
        dtype: type of the written weights; None keeps the source's.
        quantize: how attention and feed-forward layers of a transformer or text encoder are
            stored: a name of `PACKED` (.safetensors; int4 for text encoders alone), or of
            `GGUF_TYPES` (.gguf). None does not.

    Raises:
        InvalidInputError: for an unusable target name, an unknown `kind`, or a `quantize` that
            does not fit the target or the part.
        MissingDependencyError: for a .gguf without the package gguf.
        CheckpointError: for a source that cannot be read, is another kind, or is the target.
    """
    source, target = Path(source), Path(target)
    check_request(target, kind, quantize)
    source = part_folder(source, kind)
    header = read_header(source)
    if not header.is_whole:
        raise incomplete(header.name, header.num_bytes, header.expected_bytes)
    found = identify_header(header)
    actual = KINDS.get(found.family)
    if actual is None or kind not in (None, actual):
        wanted = (kind or joined(KINDS.values())).replace("_", " ")
        raise UnknownArchitectureError(
            f"{found.name} was not converted. {found.sentence} Expected: {wanted}."
        )
    refuse_overwriting(header.files, target)
    result = CONVERTERS[actual](source, read_tensors(source))
    tensors = in_type(header.name, result.tensors, dtype)
    check_quantizable(result.kind or actual, target, quantize)
    if is_gguf(target):
        ordinary = dequantize(header.name, tensors, torch.float32)
        write_gguf(target, ordinary, quantize or "F16", result.metadata[CONFIG_KEY])
    else:
        if quantize is not None:
            tensors = pack(dequantize(header.name, tensors, dtype or torch.float32), quantize)
        write_safetensors(target, tensors, result.metadata)
    return report(header.name, target, result.kind or actual, len(tensors), result.note)


def is_gguf(target: Path) -> bool:
    """Return whether a file is to be GGUF, by its name."""
    return target.suffix.lower() == GGUF_SUFFIX


def check_quantizable(kind: str, target: Path, quantize: str | None) -> None:
    """Refuse a format for a part that nobody reads it in.

    Raises:
        InvalidInputError: saying what can be quantised.
    """
    allowed = TRANSFORMERS if is_gguf(target) else (*TRANSFORMERS, "text_encoder")
    if quantize == INT4_NAME:
        allowed = ("text_encoder",)
    if kind not in allowed and (is_gguf(target) or quantize is not None):
        raise InvalidInputError(
            f"A {kind.replace('_', ' ')} cannot be written "
            f"{'as GGUF' if is_gguf(target) else f'in {quantize}'}; only "
            f"{joined(one.replace('_', ' ') for one in allowed)} can. Name a .safetensors file, "
            "and leave --quantize out."
        )


def check_request(target: Path, kind: str | None, quantize: str | None = None) -> None:
    """Refuse a target, kind or number format that no conversion can have."""
    if kind is not None and kind not in KINDS.values():
        raise InvalidInputError(f"{kind!r} is no kind of file; choose {joined(KINDS.values())}.")
    if target.suffix.lower() != SUFFIX and not is_gguf(target):
        raise InvalidInputError(
            f"{target.name} cannot be the target: only {SUFFIX} files are written, and "
            f"{GGUF_SUFFIX} files of transformers. Name it {target.stem}{SUFFIX}."
        )
    formats = GGUF_TYPES if is_gguf(target) else PACKED
    if quantize is not None and quantize not in formats:
        raise InvalidInputError(
            f"{target.name} cannot be written in {quantize!r}: a {target.suffix} file takes "
            f"{joined(formats)}. Choose one of them, or a target that takes {quantize!r}."
        )
    if is_gguf(target):
        refuse_without_gguf()
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInputError(
            f"{target.name} cannot be written: its folder does not exist, or it is a folder."
        )


def part_folder(source: Path, kind: str | None) -> Path:
    """Return the folder of one part if `source` is the folder of a whole model."""
    if not source.is_dir():
        return source
    inner = source / FOLDERS.get(kind or "transformer", "")
    has_index = (source / PIPELINE_NAME).is_file()
    is_whole_model = has_index or (source / TRANSFORMER_FOLDER).is_dir()
    if has_index and identify(source).family is not Family.LATTE_FOLDER:
        raise UnknownArchitectureError(f"{source.name} was not converted. It is no Latte folder.")
    if is_whole_model and inner != source and not inner.is_dir():
        raise CheckpointError(
            f"{source.name} has no folder {inner.name}. Download the model again, or choose the "
            "folder that holds the weights."
        )
    return inner if is_whole_model else source


def refuse_overwriting(files: tuple[Path, ...], target: Path) -> None:
    """Refuse a target that is one of the source's files, by whatever name or link (R15)."""
    for file in files:
        is_same = file.resolve() == target.resolve()
        if is_same or (target.exists() and file.exists() and target.samefile(file)):
            raise InvalidInputError(
                f"{target.name} is the file to be converted, under this or another name. "
                "Choose another target; the source is never overwritten."
            )


def in_type(
    name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return the tensors with their numbers in one type, if one is asked for.

    Position tables keep theirs: they are small, and every model uses them in float32.
    """
    if dtype is None:
        return dict(tensors)
    if not dtype.is_floating_point:
        raise InvalidInputError(f"Weights cannot be written as {dtype}; choose float16 or float32.")
    unpacked = dequantize(name, tensors, dtype)
    return {
        key: value.to(dtype) if value.is_floating_point() and key not in TABLES else value
        for key, value in unpacked.items()
    }


def report(name: str, target: Path, kind: str, num_tensors: int, note: str) -> Conversion:
    """Return the record of a finished conversion."""
    num_bytes = target.stat().st_size
    text = (
        f"Wrote {target.name} from {name}: {kind.replace('_', ' ')}, {num_tensors} tensors, "
        f"{size_text(num_bytes)}."
    )
    return Conversion(
        source=name,
        target=target.name,
        kind=kind,
        num_tensors=num_tensors,
        num_bytes=num_bytes,
        sentence=f"{text} {note}".strip(),
    )


def kept_metadata(file: TensorFile) -> dict[str, str]:
    """Return the source's metadata without its digest."""
    return {key: value for key, value in file.metadata.items() if key != DIGEST_KEY}


def convert_transformer(source: Path, file: TensorFile) -> Converted:
    """Give a transformer of any kind its released names and its config."""
    found = found_in(file.header, ARCHITECTURES)
    saved = saved_config(file, found[1])
    config = settle_config(file.header, source, None, found, saved=saved)
    metadata = {**kept_metadata(file), CONFIG_KEY: json.dumps(config.to_dict())}
    note = "" if isinstance(config, LatteT2VConfig) else f"It is {title_of(config)}."
    kind = KINDS[family_of_config(config)]
    return Converted(tensors=weights_of(file, found[1]), metadata=metadata, note=note, kind=kind)


def convert_temporal_vae(source: Path, file: TensorFile) -> Converted:
    """Give a temporal decoder VAE the names that ComfyUI reads."""
    if is_svd_layout(file.tensors):
        note = "It had ComfyUI's names already."
        return Converted(tensors=file.tensors, metadata=kept_metadata(file), note=note)
    note = "ComfyUI's Load VAE opens it; it decodes only, use the image VAE for encoding."
    weights = find_vae(file.tensors, vae_settings(file.header.files[0])).take(file.tensors)
    return Converted(tensors=temporal_vae_to_svd(weights), metadata=kept_metadata(file), note=note)


def convert_lora(source: Path, file: TensorFile) -> Converted:
    """Give a LoRA the names that ComfyUI reads."""
    settings = peft_settings(lora_file(source))
    lora = native_lora(file.name, file.tensors, file.metadata, settings=settings)
    return Converted(tensors=lora.tensors, metadata=kept_metadata(file), note=lora.sentence)


def convert_unchanged(source: Path, file: TensorFile) -> Converted:
    """Keep the names: image VAE and text encoder are read by ComfyUI as they are."""
    return Converted(tensors=file.tensors, metadata=kept_metadata(file))


CONVERTERS: dict[str, Callable[[Path, TensorFile], Converted]] = {
    "transformer": convert_transformer,
    "class_transformer": convert_transformer,
    "image_transformer": convert_transformer,
    "temporal_vae": convert_temporal_vae,
    "image_vae": convert_unchanged,
    "text_encoder": convert_unchanged,
    "lora": convert_lora,
}
