"""Store the wide layers of a model in fewer bits, in place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..errors import InvalidInputError
from ..kernels.choice import KernelSet, KernelUse
from ..model.attention import FusedLinear
from ..model.t2v.transformer import LatteT2V
from ..model.weights.fused_qkv import fuse_qkv
from ..model.weights.lora import LoraLinear, modules_of
from ..model.weights.merge import forget_merged
from ..model.weights.released import released_names
from ..text.four_bits import BYTES_PER_NUMBER, FourBitLinear
from ..text.stored_linear import StoredLinear
from .formats import format_named
from .layers import is_target, quantised_name
from .linear import quantised, stored
from .matmul import UNPACKING, Backend
from .names import INT4_NAME, INT_MM, TEXT_PRECISIONS, UNPACKED
from .trial import find_backend

logger = logging.getLogger("latte")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantisation:
    """What was done to a model.

    Args:
        name: of the format.
        num_layers: how many layers are stored in it.
        bytes_before, bytes_after: of the weights of those layers, scales included.
        is_native: whether products are made of such numbers; if not, only memory is saved.
        product: how they are made, see `names`.
        sentence: the same for a person.
    """

    name: str
    num_layers: int
    bytes_before: int
    bytes_after: int
    is_native: bool
    product: str
    sentence: str


def quantize(
    model: nn.Module,
    name: str,
    *,
    device: torch.device | None = None,
    backend: Backend | None = None,
) -> Quantisation:
    """Give a transformer eight-bit attention projections and feed-forward layers.

    Weights have a scale for each row, activations one for each token and call. LoRAs have to be
    merged before; they become part of the quantised weights. There is no way back: load the model
    again for its own weights.

    Args:
        model: LatteT2V or Latte, fused or not; changed in place.
        name: `fp8` (e4m3) or `int8`.
        device: where it will run; None for where its weights are.
        backend: how to multiply; None tries the widest layer there, on a card against its own type.

    Returns:
        What was done; where products in eight bits do not pay, that is logged, once.

    Raises:
        InvalidInputError: for another format, or a model that is quantised or being trained with
            adapters; nothing is changed then.
    """
    kind = format_named(name)
    layers = _targets(model, name)
    device = device or layers[next(iter(layers))].weight.device
    found = backend and f"Products run as {backend.name}."
    if backend is None:
        kernels: KernelSet = getattr(model, "kernels", None) or KernelSet()
        trial = find_backend(
            _widest(layers),
            kind,
            device,
            with_kernels=kernels.use is not KernelUse.NEVER,
            is_timed=kernels.use is not KernelUse.FIXED,
            store=kernels.store_for(device),
        )
        backend, found = trial.backend, trial.sentence
        if not trial.pays:
            logger.warning(found)
            found = None
    if backend.name == INT_MM and backend.with_kernels and isinstance(model, LatteT2V):
        layers.clear()
        fuse_qkv(model)  # sums of 32 bits are scaled by a pass of their own: one in place of three
        layers = _targets(model, name)
    done = _replace(model, layers, partial(quantised, kind=kind, backend=backend), name, backend)
    return done if found is None else replace(done, sentence=f"{done.sentence} {found}")


def quantize_text(encoder: nn.Module, name: str) -> Quantisation:
    """Store the layers of transformers' T5 encoder in fewer bits; products stay as they are.

    T5's activations have outliers far above the rest, which few bits would flatten, and a prompt
    is encoded once: so weights are unpacked when they are used, and memory is what this saves.

    Args:
        encoder: changed in place, layer by layer.
        name: `fp8`, `int8` or `int4`, of which the last has a scale for each group of a row.

    Raises:
        InvalidInputError: as `quantize`.
    """
    make = maker_of_text(name)
    return _replace(encoder, _targets(encoder, name), make, name, UNPACKING)


def maker_of_text(name: str) -> Callable[[nn.Linear], StoredLinear]:
    """Return what makes the layers of a text encoder in a format.

    Raises:
        InvalidInputError: if there is no format of that name.
    """
    if text_format(name) == INT4_NAME:
        return FourBitLinear.of
    return partial(stored, kind=format_named(name))


def text_format(name: str) -> str:
    """Return the name of a format for text encoders.

    Raises:
        InvalidInputError: if there is none of that name.
    """
    if name not in TEXT_PRECISIONS:
        raise InvalidInputError(
            f"{name!r} is no format of a text encoder; choose one of {', '.join(TEXT_PRECISIONS)}."
        )
    return name


def text_bytes(name: str) -> float:
    """Return the bytes that a number of a text encoder's layer takes in a format."""
    return BYTES_PER_NUMBER if name == INT4_NAME else 1.0


@torch.no_grad()
def _replace(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    make: Callable[[nn.Linear], StoredLinear],
    name: str,
    backend: Backend,
) -> Quantisation:
    """Exchange layers one by one; each is given up at once, so that no second copy is made."""
    before = after = 0
    num_layers = len(layers)
    while layers:
        place = next(iter(layers))
        layer = layers.pop(place)
        for released in released_names(place, layer):
            forget_merged(model, released)  # LoRAs in it are there for good
        small = make(layer)
        before += layer.weight.numel() * layer.weight.element_size()
        after += sum(one.numel() * one.element_size() for one in (small.values, small.scales))
        model.set_submodule(place, small)
    return Quantisation(
        name=name,
        num_layers=num_layers,
        bytes_before=before,
        bytes_after=after,
        is_native=backend.name != UNPACKED,
        product=backend.name,
        sentence=f"{num_layers} layers are stored as {name}: {after / 1e6:.1f} MB in place "
        f"of {before / 1e6:.1f} MB.",
    )


def _widest(layers: dict[str, nn.Linear]) -> nn.Linear:
    """Return the layer with the largest weight."""
    return max(layers.values(), key=lambda layer: layer.weight.numel())


def _targets(model: nn.Module, name: str) -> dict[str, nn.Linear]:
    """Return the layers to store, by name; refuse a model before anything is changed."""
    layers = {
        place: one
        for place, one in modules_of(model).items()
        if isinstance(one, nn.Linear)
        and type(one) in (nn.Linear, FusedLinear)
        and is_target(place, one.out_features, one.in_features)
    }
    _check(model, layers, name)
    return layers


def _check(model: nn.Module, layers: dict[str, nn.Linear], name: str) -> None:
    """Refuse a model that cannot be quantised."""
    for one in modules_of(model).values():
        found = quantised_name(one)
        if found:
            raise InvalidInputError(
                f"The model is stored as {found} already and cannot become {name}. Load it "
                "again first."
            )
        if isinstance(one, LoraLinear):
            raise InvalidInputError(
                "A model with adapters in training cannot be quantised. Take them off with "
                "remove_lora, or merge them."
            )
    if not layers:
        raise InvalidInputError(
            f"There is nothing to store as {name}: no attention projection or feed-forward "
            "layer has rows and columns in multiples of 16. Leave the precision out."
        )
