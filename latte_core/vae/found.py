"""One judgement of weights that shall be a VAE: which, in which names, whole, and of Latte's scale.

It reads names and shapes alone, so that `inspect`, every loader, and every run before it computes
anything ask the same function of a file's header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Protocol

from torch import Tensor

from ..errors import UnknownArchitectureError
from ..meta_modules import check_names, check_shapes
from ..types import SCALING_FACTOR
from .config import ADVICE, TEMPORAL_MARK, VaeConfig
from .layout import ENCODER_PARTS, has_encoder, vae_layout
from .names import as_matrix, matrix_shape, present_names

XL_SCALING_FACTOR = 0.13025
PART = "VAE"


class Shaped(Protocol):
    """Anything with a shape: a tensor or an entry of a header."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVae:
    """A VAE that was recognised and is whole.

    Args:
        config: its shape.
        names: diffusers' present name -> name in the file, of the weights to load.
        can_encode: False where the encoder, or its last convolution, is not there.
    """

    config: VaeConfig
    names: Mapping[str, str]
    can_encode: bool

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under diffusers' present names."""
        return {short: as_matrix(short, tensors[name]) for short, name in self.names.items()}


def find_vae(
    shapes: Mapping[str, Shaped], config: Mapping[str, Any] | VaeConfig | None = None
) -> FoundVae:
    """Return what VAE the weights with these names and shapes are.

    Args:
        shapes: name in the file -> anything with a shape.
        config: the config.json that came with them; read from the shapes when left out.

    Raises:
        UnknownArchitectureError: if it is the VAE of another model.
        InvalidInputError: if the config cannot be used.
        WeightMismatchError: if weights are missing, unknown or of another shape.
    """
    names = present_names(shapes)
    found = {short: matrix_shape(short, tuple(shapes[name].shape)) for short, name in names.items()}
    if config is None:
        config = VaeConfig.from_shapes(found)
    elif not isinstance(config, VaeConfig):
        config = VaeConfig.from_dict(config, is_temporal=TEMPORAL_MARK in found)
    expected = vae_layout(config)
    can_encode = has_encoder(config, found)
    if not can_encode:
        expected = {n: shape for n, shape in expected.items() if not n.startswith(ENCODER_PARTS)}
        found = {n: shape for n, shape in found.items() if not n.startswith(ENCODER_PARTS)}
    check_names(PART, expected, found)
    check_shapes(PART, expected, found)
    return FoundVae(
        config=config, names={short: names[short] for short in found}, can_encode=can_encode
    )


def check_scale(scaling_factor: float) -> None:
    """Refuse a VAE whose latents have another scale than those that Latte was trained on.

    Raises:
        UnknownArchitectureError: saying whose it is, if it is Stable Diffusion XL's.
    """
    if isclose(scaling_factor, SCALING_FACTOR, rel_tol=1e-3):
        return
    whose = "another model"
    if isclose(scaling_factor, XL_SCALING_FACTOR, rel_tol=1e-3):
        whose = "Stable Diffusion XL"
    raise UnknownArchitectureError(
        f"This is the VAE of {whose}: its config.json says scaling_factor = {scaling_factor:g}, "
        f"but Latte's latents have {SCALING_FACTOR}, so every colour would be wrong. {ADVICE}"
    )
