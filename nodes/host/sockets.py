"""Checks of what arrives on a node's sockets, with messages that name both ends of the wire."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...latte_core.errors import IncompatibleInputsError, InvalidInputError
from ...latte_core.types import LATENT_CHANNELS, PIXELS_PER_CELL, SIZE_MULTIPLE
from .detection import IMAGE_MODEL


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return a finite number within a range; values that come over a wire skip the widget's own.

    Raises:
        InvalidInputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInputError(f"{name} is {value!r}, but it must be a number.")
    if not low <= value <= high:
        raise InvalidInputError(f"{name} is {value}, but it must be from {low:g} to {high:g}.")
    return float(value)


def check_choice(name: str, value: object, choices: list[str]) -> str:
    """Return a listed value.

    Raises:
        InvalidInputError: otherwise.
    """
    if value not in choices:
        raise InvalidInputError(f"{name} is {value!r}, but it must be one of {', '.join(choices)}.")
    return str(value)


def check_model(model: Any, node: str) -> None:
    """Refuse a MODEL that is not a Latte.

    Raises:
        IncompatibleInputsError: naming the socket, what came and which node gives the right one.
    """
    inner = getattr(model, "model", None)
    settings = getattr(getattr(inner, "model_config", None), "unet_config", None) or {}
    if settings.get("image_model") != IMAGE_MODEL:
        raise IncompatibleInputsError(
            f'The "model" input of {node} got a {type(inner or model).__name__}, but it needs a '
            'Latte model. Connect the MODEL output of "Latte Model Loader" (or of Load Diffusion '
            "Model with a Latte file)."
        )


def check_conditioning(conditioning: Any, socket: str, width: int, node: str) -> None:
    """Refuse a CONDITIONING that another kind of text encoder made.

    Raises:
        IncompatibleInputsError: naming the socket, the widths and which node gives the right one.
    """
    entries = conditioning if isinstance(conditioning, list) else []
    tensors = [entry[0] for entry in entries if isinstance(entry, (list, tuple)) and entry]
    advice = 'Connect "Latte Text Encode" with the text encoder that belongs to this model.'
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise IncompatibleInputsError(
            f'The "{socket}" input of {node} holds no text conditioning. {advice}'
        )
    for tensor in tensors:
        if tensor.ndim == 3 and tensor.shape[2] == width:
            continue
        guess = " It looks like CLIP." if tensor.shape[-1] in (768, 1024, 1280, 2048) else ""
        raise IncompatibleInputsError(
            f'The "{socket}" input of {node} got text of width {tensor.shape[-1]}, but its model '
            f"expects {width}.{guess} {advice}"
        )


def check_latent(latent: Any, socket: str, node: str, *, strict: bool = False) -> Tensor:
    """Return the tensor of a LATENT as float: (T, 4, h, w) or (B, 4, T, h, w).

    Unless `strict`, an all-zero latent of another channel count passes: ComfyUI adapts those.

    Raises:
        IncompatibleInputsError: for another layout or another model's latents.
    """
    channels = LATENT_CHANNELS
    samples: Any = latent.get("samples") if isinstance(latent, dict) else None
    advice = 'Connect "Empty Latte Latent".'
    if not isinstance(samples, Tensor) or samples.is_nested or samples.ndim not in (4, 5):
        found = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise IncompatibleInputsError(
            f'The "{socket}" input of {node} holds {found}, but it needs latents of shape '
            f"(frames, {channels}, height, width) or (videos, {channels}, frames, height, width). "
            f"{advice}"
        )
    if 0 in samples.shape:
        raise InvalidInputError(
            f'The "{socket}" input of {node} is empty: its shape is {tuple(samples.shape)}. '
            f"{advice}"
        )
    if samples.shape[1] != channels and (strict or bool(samples.any())):
        raise IncompatibleInputsError(
            f'The "{socket}" input of {node} has {samples.shape[1]} channels, but Latte works on '
            f"{channels}. These latents belong to another model's VAE. {advice}"
        )
    return samples if samples.dtype.is_floating_point else samples.to(torch.float32)


def check_latent_size(samples: Tensor, socket: str, node: str) -> None:
    """Refuse sides that are not whole patches, naming the two nearest sizes.

    Raises:
        InvalidInputError: for a side that is not a multiple of 16 pixels.
    """
    cells = SIZE_MULTIPLE // PIXELS_PER_CELL
    for name, side in (("high", samples.shape[-2]), ("wide", samples.shape[-1])):
        if side % cells:
            below = (side - side % cells) * PIXELS_PER_CELL
            nearest = f"{below} and {below + SIZE_MULTIPLE}" if below else f"{SIZE_MULTIPLE}"
            raise InvalidInputError(
                f'The "{socket}" input of {node} is {side * PIXELS_PER_CELL} pixels {name}, but '
                f"Latte needs a multiple of {SIZE_MULTIPLE}. The nearest sizes are {nearest}. "
                "KSampler accepts any size: the model then pads and crops."
            )


def check_vae(vae: Any, node: str) -> None:
    """Refuse anything but a VAE for four-channel images latents.

    Raises:
        IncompatibleInputsError: naming the socket and which node gives the right one.
    """
    advice = 'Connect "Latte VAE Loader" (or Load VAE with a Stable Diffusion 1.x VAE).'
    if getattr(vae, "first_stage_model", None) is None or not hasattr(vae, "process_output"):
        raise IncompatibleInputsError(f'The "vae" input of {node} holds no VAE. {advice}')
    if vae.latent_channels != LATENT_CHANNELS or getattr(vae, "latent_dim", 2) != 2:
        raise IncompatibleInputsError(
            f'The "vae" input of {node} has {vae.latent_channels} latent channels in '
            f"{getattr(vae, 'latent_dim', 2)} dimensions, but Latte's latents have "
            f"{LATENT_CHANNELS} in 2. {advice}"
        )
