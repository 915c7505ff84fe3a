"""The VAE and the text encoder that a model's training data is prepared with.

The transformer is not opened: a folder with a VAE, and a text encoder for captions, will do for a
model that is yet to be trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.reading.folders import weight_files
from ..checkpoint.reading.reader import read_tensors
from ..checkpoint.recognition.families import Family
from ..checkpoint.recognition.identify import identify, require_vae
from ..devices import pick_device, pick_dtype
from ..errors import CheckpointError, InvalidInputError
from ..files import read_json
from ..pipelines.classes.vae import open_vae, vae_beside
from ..pipelines.model_folders import (
    TEXT_FOLDER,
    TRANSFORMER_FOLDERS,
    is_class_model,
    locate,
    locate_class_model,
    read_card,
)
from ..shipped import CLASS_STARTER, STARTER, VAE_FOLDERS
from ..text.config import T5EncoderConfig
from ..text.t5 import TextEncoder
from ..types import PIXELS_PER_CELL
from ..vae.frames import VideoVAE
from .sets.format import file_sha256

TOKENIZER_FOLDER = "tokenizer"
CONFIG = "config.json"
CLASS_SIDE = 256  # of the published class models
TEXT_SIDE = 512  # of Latte-1
DEFAULT_FRAMES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelParts:
    """Where the parts of a model lie, and what it is trained on.

    Args:
        name: of the model, for people.
        vae: folder or file.
        text_encoder: folder; None for a model without text.
        height, width, num_frames: of its clips.
        is_small: whether it is a small model with a card, whose encoder runs in float32.
    """

    name: str
    vae: Path
    text_encoder: Path | None
    height: int
    width: int
    num_frames: int
    is_small: bool

    @property
    def text_width(self) -> int | None:
        """Features per token; read from the text encoder's config."""
        if self.text_encoder is None:
            return None
        return T5EncoderConfig.from_dict(read_json(self.text_encoder / CONFIG)).d_model

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the weights, by the part's name; reads all of them once."""
        parts = {"vae_sha256": self.vae, "text_encoder_sha256": self.text_encoder}
        return {name: _sha256(path) for name, path in parts.items() if path is not None}

    def open_vae(self, device: torch.device | str | None, dtype: torch.dtype | None) -> VideoVAE:
        """Open the VAE, in float32 if nothing else is asked for: latents are made once.

        Raises:
            CheckpointError: if it cannot be read.
        """
        return open_vae(self.vae, dtype or torch.float32, pick_device(device))

    def open_text_encoder(
        self, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> TextEncoder:
        """Open the text encoder in the number format that the pipeline runs it in.

        Raises:
            InvalidInputError: for a model without text.
            CheckpointError: if it cannot be read.
        """
        if self.text_encoder is None:
            raise InvalidInputError(f"The model {self.name} has no text encoder.")
        chosen = pick_device(device)
        return TextEncoder.from_folder(
            self.text_encoder,
            read=_tensors,
            dtype=dtype or pick_dtype(chosen, is_small=self.is_small),
            device=chosen,
        )


def find_model_parts(model: str | Path) -> ModelParts:
    """Find the parts that training data for a model is made with.

    Args:
        model: `starter`, `class-starter`, a model's folder or file, a folder with `vae/` (and
            `text_encoder/` and `tokenizer/`) alone, or a VAE.

    Raises:
        InvalidInputError: if there is no such model.
        CheckpointError: if a part is missing, or the file is something else.
    """
    path = Path(model)
    if model not in (STARTER, CLASS_STARTER) and _is_vae(path):
        return ModelParts(
            name=path.name,
            vae=path,
            text_encoder=None,
            height=CLASS_SIDE,
            width=CLASS_SIDE,
            num_frames=DEFAULT_FRAMES,
            is_small=False,
        )
    if model not in (STARTER, CLASS_STARTER) and _has_parts_alone(path):
        return _parts(str(model), path, path, has_text=(path / TEXT_FOLDER).is_dir())
    if is_class_model(model):
        transformer, home = locate_class_model(model)
        return _parts(str(model), home, transformer, has_text=False)
    transformer, home = locate(model)
    return _parts(str(model), home, transformer, has_text=True)


def _is_vae(path: Path) -> bool:
    """Whether a file, or a folder with a config and weights, is a VAE."""
    if not path.is_file() and not (path / CONFIG).is_file():
        return False
    return identify(path).family in (Family.IMAGE_VAE, Family.TEMPORAL_VAE)


def _has_parts_alone(path: Path) -> bool:
    """Whether a folder holds folders of other parts, but no transformer."""
    parts = (*VAE_FOLDERS.values(), TEXT_FOLDER)
    has_transformer = any((path / name).is_dir() for name in TRANSFORMER_FOLDERS)
    return (
        any((path / name).is_dir() for name in parts)
        and not has_transformer
        and not (path / CONFIG).is_file()
    )


def _parts(model: str, home: Path, transformer: Path, *, has_text: bool) -> ModelParts:
    """Return the parts of a model whose companions lie in or beside `home`."""
    card = read_card(home)
    side = _trained_side(transformer) or (TEXT_SIDE if has_text else CLASS_SIDE)
    uses_starter = model == CLASS_STARTER or card.get("vae") == STARTER
    vae = _vae_in(locate(STARTER)[1] if uses_starter else home, Path(model).name)
    require_vae(vae)
    text_encoder = home / TEXT_FOLDER if has_text else None
    if text_encoder is not None:
        _require_text(home, Path(model).name)
    return ModelParts(
        name=Path(model).name,
        vae=vae,
        text_encoder=text_encoder,
        height=int(card.get("height", side)),
        width=int(card.get("width", side)),
        num_frames=int(card.get("num_frames", DEFAULT_FRAMES)),
        is_small=bool(card),
    )


def _vae_in(home: Path, name: str) -> Path:
    """Return the image VAE, or the temporal one, whose encoder is the same."""
    temporal = home / VAE_FOLDERS["temporal"]
    try:
        return vae_beside(home, "image", name)
    except CheckpointError:
        if temporal.is_dir():
            return temporal
        raise


def _require_text(home: Path, name: str) -> None:
    for part in (TEXT_FOLDER, TOKENIZER_FOLDER):
        if not (home / part).is_dir():
            raise CheckpointError(
                f"{name} reads captions, but the folder {home.name or '.'} has no {part} in it. "
                f"Put the {part} folder of Latte-1 there, or name a whole Latte-1 folder."
            )


def _trained_side(transformer: Path) -> int | None:
    """Return the side in pixels that a transformer's config.json states."""
    config = transformer / CONFIG
    values = read_json(config) if config.is_file() else {}
    side = values.get("sample_size", values.get("input_size"))
    return side * PIXELS_PER_CELL if isinstance(side, int) else None


def _sha256(path: Path) -> str:
    """Return the digest of a weights file, or of a folder's files together."""
    if path.is_file():
        return file_sha256(path)
    together = hashlib.sha256()
    for file in weight_files(path):
        together.update(bytes.fromhex(file_sha256(file)))
    return together.hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path).tensors
