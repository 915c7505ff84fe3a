"""Whether a file's header is that of a VAE that Latte can use, and the config that came with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UnknownArchitectureError
from ...types import SCALING_FACTOR
from ...vae.config import ADVICE
from ...vae.found import FoundVae, check_scale, find_vae
from ..reading.folders import config_beside
from ..reading.records import FileHeader

CLASS_PART = "utoencoder"  # of diffusers' class names: AutoencoderKL, AsymmetricAutoencoderKL
# Weights of Stable Diffusion XL's VAE have the names and shapes of version 1's; where no config
# tells the scale, the name does.
XL_NAME = re.compile(r"sd[-_. ]?xl|(?<![a-z])xl[-_. ]?vae|vae[-_. ]?xl(?![a-z])", re.IGNORECASE)
XL_METADATA = ("modelspec.architecture", "modelspec.title")
PUBLISHED_STEM = "diffusion_pytorch_model"


def judge_vae(header: FileHeader) -> FoundVae:
    """Return the VAE in a file, or in a folder of shards, whose header has been read.

    Raises:
        UnknownArchitectureError: for the VAE of another model, one of another scale included.
        WeightMismatchError: if it is not whole.
        CheckpointError, InvalidInputError: if the config beside it cannot be used.
    """
    settings = vae_settings(header.files[0])
    found = find_vae(header.tensors, settings)
    check_scale(found.config.scaling_factor)
    if settings is None:
        refuse_xl_by_name(header)
    return found


def vae_settings(path: Path) -> Mapping[str, Any] | None:
    """Return the config.json in the folder `path`, or beside the file, if it is a VAE's."""
    values = config_beside(path)
    if values is None:
        return None
    named = str(values.get("_class_name", ""))
    return values if CLASS_PART in named or "block_out_channels" in values else None


def refuse_xl_by_name(header: FileHeader) -> None:
    """Refuse weights without a config whose file says that they are Stable Diffusion XL's.

    Raises:
        UnknownArchitectureError: naming where it says so.
    """
    file = header.files[0]
    said = [file.name, *(header.metadata.get(key, "") for key in XL_METADATA)]
    if file.name.startswith(PUBLISHED_STEM):  # such a name tells nothing, so its folder's does
        said.append(file.resolve().parent.name)
    marked = [text for text in said if XL_NAME.search(text) or "stable-diffusion-xl" in text]
    if marked:
        raise UnknownArchitectureError(
            f"This is the VAE of Stable Diffusion XL by its name ({marked[0][:80]}): its latents "
            f"have another scale than Latte's, which is {SCALING_FACTOR}, so every colour would be "
            f"wrong. {ADVICE} If it is one of those, put its config.json beside it."
        )
