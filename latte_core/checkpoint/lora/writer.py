"""Write LoRA files that ComfyUI's own loader reads without help (docs/comfyui.md 7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptCheckpointError, InvalidInputError, NonFiniteError
from ...files import json_object
from ...model.weights.lora import ALPHA_NAME, DOWN_NAME, NATIVE_PREFIX, UP_NAME, LoraSettings
from ...version import __version__
from ..loading.loader import transformer_path
from ..reading.finite import is_finite
from ..reading.reader import DIGEST_KEY, read_header
from ..reading.records import shown
from ..writing.writer import write_safetensors

CARD_KEY = "latte_lora"  # metadata entry: the card of the file as JSON
FORMAT_VERSION = 1
TEXT_STARTS = tuple(  # of names of text-to-video models; the others number all their blocks
    f"{NATIVE_PREFIX}{kind}transformer_blocks." for kind in ("", "temporal_")
)
FILE_TYPES = (torch.float32, torch.float16, torch.bfloat16)
CHUNK = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraBase:
    """The model that a LoRA was trained on.

    Args:
        name: base name of its file or folder, or of the starter.
        digest: SHA-256 of its weights, "" if not known.
    """

    name: str
    digest: str = ""


def base_of(path: Path | str) -> LoraBase:
    """Describe the model at a path.

    The digest is the one that files of this package carry; of other files it is that of their
    bytes, which for a large model takes some seconds.

    Raises:
        CheckpointError: for a file that cannot be read.
    """
    path = Path(path)
    header = read_header(transformer_path(path))
    digest = header.metadata.get(DIGEST_KEY) or digest_of(header.files)
    return LoraBase(name=path.name, digest=digest)


def digest_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def write_lora(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    *,
    settings: LoraSettings,
    base: LoraBase | str,
    steps: int,
    trained_words: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write adapters to a safetensors file, whole or not at all.

    The metadata has a card (`latte_lora`, see `read_card`), the entries that model browsers show
    (`modelspec.title`, `modelspec.architecture`, `modelspec.trigger_phrase`) and, as in all files
    of this package, the SHA-256 of the data.

    Args:
        path: where to; its name is the title.
        tensors: what `lora_state` returns.
        settings: of the adapters.
        base: what they were trained on: `base_of` its file, or a name alone.
        steps: how often they were updated.
        trained_words: words of prompts, or names of classes, that bring out what was learned.
        dtype: of A and B in the file: float32, float16 or bfloat16.

    Raises:
        InvalidInputError: for tensors that are no adapters of these settings, or another `dtype`.
        NonFiniteError: if a number is NaN or infinite, as after a training that broke down, or
            becomes so in `dtype`.
        CheckpointError: if the disk is full or the place cannot be written.
    """
    path = Path(path)
    if dtype not in FILE_TYPES:
        raise InvalidInputError(
            f"A LoRA cannot be written as {dtype}; choose float32, float16 or bfloat16."
        )
    check_adapters(path.name, tensors, settings)
    ready = {
        name: value if name.endswith(f".{ALPHA_NAME}") else value.detach().to(dtype)
        for name, value in tensors.items()
    }
    broken = next((name for name, value in ready.items() if not is_finite(value)), None)
    if broken is not None:
        raise NonFiniteError(
            f"{path.name} was not written: {shown(broken)} holds NaN or infinite numbers. The "
            "training broke down; go on from an earlier checkpoint with a lower learning rate."
        )
    base = LoraBase(name=base) if isinstance(base, str) else base
    is_text = any(name.startswith(TEXT_STARTS) for name in tensors)
    architecture = "LatteT2V" if is_text else "Latte"
    card = {
        "version": FORMAT_VERSION,
        **asdict(settings),
        "base": {"architecture": architecture, **asdict(base)},
        "steps": steps,
        "trained_words": list(trained_words),
        "software": f"ComfyUI-Latte {__version__}",
    }
    metadata = {
        CARD_KEY: json.dumps(card),
        "modelspec.title": path.stem,
        "modelspec.architecture": f"{architecture.lower()}/lora",
    }
    if trained_words:
        metadata["modelspec.trigger_phrase"] = ", ".join(trained_words)
    write_safetensors(path, ready, metadata)


def check_adapters(name: str, tensors: Mapping[str, Tensor], settings: LoraSettings) -> None:
    """Refuse tensors that are not A, B and alpha of whole layers, with the rank of `settings`."""
    layers = {key.removesuffix(f".{DOWN_NAME}") for key in tensors if key.endswith(DOWN_NAME)}
    parts = (DOWN_NAME, UP_NAME, ALPHA_NAME)
    expected = {f"{layer}.{part}" for layer in layers for part in parts}
    odd = sorted(expected ^ set(tensors))
    odd += sorted(layer for layer in layers if not layer.startswith(NATIVE_PREFIX))
    if odd or not layers:
        raise InvalidInputError(
            f"{name} was not written: the tensors are no whole adapters "
            f"({', '.join(shown(one) for one in odd[:3]) or 'there are none'}). Pass what "
            "lora_state returns."
        )
    for layer in layers:
        found = (tensors[f"{layer}.{DOWN_NAME}"].shape[0], tensors[f"{layer}.{UP_NAME}"].shape[1])
        alpha = float(tensors[f"{layer}.{ALPHA_NAME}"])
        if found != (settings.rank, settings.rank) or alpha != settings.alpha:
            raise InvalidInputError(
                f"{name} was not written: layer {shown(layer)} has rank {found[0]} and alpha "
                f"{alpha:g}, the settings say {settings.rank} and {settings.alpha:g}. Pass the "
                "settings that the adapters were made with."
            )


def read_card(name: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what a LoRA file of this package says of itself; empty for files of other tools.

    Args:
        name: base name of the file, for messages.
        metadata: its text entries.

    Returns:
        `rank`, `alpha`, `blocks`, `targets`, `dropout`, `base` (`architecture`, `name`, `digest`),
        `steps`, `trained_words`, `software` and the `version` of this list.

    Raises:
        CorruptCheckpointError: for a card that is no JSON table, or of a later version.
    """
    text = metadata.get(CARD_KEY)
    if text is None:
        return {}
    card = json_object(f"The card in {name}", text)
    if card.get("version") != FORMAT_VERSION:
        raise CorruptCheckpointError(
            f"{name} has a card of version {shown(str(card.get('version')))}, but this package "
            f"reads version {FORMAT_VERSION}. Update the package."
        )
    return card
