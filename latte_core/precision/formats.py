"""Numbers of eight bits with a scale: float8 e4m3 and int8, and the way there and back.

fp8 scales are powers of two. A floating-point value loses nothing by such a scale within the
range of normal numbers, and weights that were fp8 before, with other scales of this kind, become
the same bits again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import InvalidInputError
from .names import FP8_NAME, INT8_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A kind of eight-bit number.

    Args:
        name: `fp8` or `int8`.
        dtype: of the stored numbers.
        largest: magnitude of the largest number used.
        stored_as: its name in the files that ComfyUI writes.
    """

    name: str
    dtype: torch.dtype
    largest: float
    stored_as: str


FP8 = Format(name=FP8_NAME, dtype=torch.float8_e4m3fn, largest=448.0, stored_as="float8_e4m3fn")
INT8 = Format(name=INT8_NAME, dtype=torch.int8, largest=127.0, stored_as="int8_tensorwise")
FORMATS: Mapping[str, Format] = MappingProxyType({one.name: one for one in (FP8, INT8)})


def format_named(name: str) -> Format:
    """Return a format by its name.

    Raises:
        InvalidInputError: if there is none of that name.
    """
    if name not in FORMATS:
        raise InvalidInputError(f"{name!r} is no eight-bit format; choose {' or '.join(FORMATS)}.")
    return FORMATS[name]


def quantise_rows(weight: Tensor, kind: Format) -> tuple[Tensor, Tensor]:
    """Quantise a weight (N, K) with one scale for each row.

    Returns:
        Numbers (N, K) of `kind.dtype`, and scales (N, 1) float32; their product is the weight.
    """
    return _quantise(weight, _largest(weight.float().abs().amax(dim=1, keepdim=True), kind), kind)


def quantise_whole(weight: Tensor, kind: Format) -> tuple[Tensor, Tensor]:
    """Quantise a weight of any shape with a single scale () float32."""
    return _quantise(weight, _largest(weight.float().abs().amax(), kind), kind)


def quantise_tokens(tokens: Tensor, kind: Format) -> tuple[Tensor, Tensor]:
    """Quantise activations (M, K) with one scale for each token.

    Returns:
        Numbers (M, K) and scales (M, 1) float32.
    """
    largest = tokens.abs().amax(dim=1, keepdim=True).float()
    # the smallest normal number keeps a token of zeros from dividing by zero
    scales = (largest / kind.largest).clamp_min(torch.finfo(torch.float32).tiny)
    return _divided(tokens, scales, kind), scales


def dequantise_rows(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers times scales; the product is made in float32 and rounded once."""
    return values.float().mul_(scales).to(dtype)


def _largest(largest: Tensor, kind: Format) -> Tensor:
    """Return the scale for which the largest magnitude is in the format's range."""
    fitting = largest / kind.largest
    if kind is FP8:
        mantissa, exponent = torch.frexp(fitting)
        exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
        fitting = torch.ldexp(torch.ones_like(fitting), exponent)
    return torch.where(largest > 0, fitting, torch.ones_like(fitting))


def _quantise(weight: Tensor, scale: Tensor, kind: Format) -> tuple[Tensor, Tensor]:
    return _divided(weight, scale, kind), scale


def _divided(given: Tensor, scale: Tensor, kind: Format) -> Tensor:
    """Return given / scale, rounded to nearest, even in a tie, within the format's range."""
    ratio = (given.float() / scale).clamp_(-kind.largest, kind.largest)
    return (ratio.round_() if kind is INT8 else ratio).to(kind.dtype)
