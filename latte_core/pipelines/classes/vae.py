"""The VAE of a class model: named by the caller, or found beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ...checkpoint.reading.reader import read_tensors
from ...checkpoint.recognition.identify import require_vae
from ...checkpoint.recognition.vaes import vae_settings
from ...errors import CheckpointError, InvalidInputError
from ...shipped import VAE_FOLDERS
from ...vae.frames import VideoVAE
from ..model_folders import BESIDE

VAE_KINDS = ("image", "temporal")
# The authors' names of one VAE with three decoders (docs/model.md 8).
IMAGE_FOLDERS = ("vae", "sd-vae-ft-ema", "sd-vae-ft-mse")


def check_vae_choice(vae: str | Path | None) -> str | Path:
    """Return `image` or `temporal`, or the path of a VAE.

    Raises:
        InvalidInputError: if there is no such file or folder.
    """
    if vae is None:
        return VAE_KINDS[0]
    if vae in VAE_KINDS:
        return str(vae)
    path = Path(vae)
    if not path.exists():
        raise InvalidInputError(
            f"There is no VAE {str(vae)!r}. Give the folder or file of one, or the word image or "
            "temporal to use what lies beside the model."
        )
    return next(_folders_in(path, IMAGE_FOLDERS), path)


def vae_beside(folder: Path, kind: str, model: str) -> Path:
    """Return the VAE's folder in or beside the folder of a model.

    Args:
        folder: of the model.
        kind: `image` or `temporal`.
        model: what to call the model in the message.

    Raises:
        CheckpointError: if there is none.
    """
    names = IMAGE_FOLDERS if kind == "image" else (VAE_FOLDERS["temporal"],)
    for beside in BESIDE:
        for found in _folders_in(folder / beside, names):
            return found
    raise CheckpointError(
        f"{model} needs a VAE to turn latents into frames, but there is no folder "
        f"{' or '.join(names)} in {folder.name or '.'} or beside it. Put the VAE's folder there, "
        "or name it as the vae."
    )


def open_vae(path: Path, dtype: torch.dtype, device: torch.device) -> VideoVAE:
    """Open a VAE from its folder or from one file.

    Raises:
        CheckpointError: for a file that cannot be read or is no VAE of Latte's kind.
    """
    require_vae(path)
    tensors = read_tensors(path).tensors
    return VideoVAE.from_tensors(tensors, vae_settings(path), dtype=dtype, device=device)


def _folders_in(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    yield from (folder / name for name in names if (folder / name).is_dir())
