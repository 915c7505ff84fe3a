"""Checks of what arrives on a node's sockets, with messages that name both ends of the wire."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ....latte_core.config.t2v import LatteT2VConfig
from ....latte_core.errors import IncompatibleInputsError, InvalidInputError
from ....latte_core.types import LATENT_CHANNELS, PIXELS_PER_CELL
from .conditions import CLASS, MAKERS, Config, check_kind, find_label, guess_encoder, kind_read
from .detection import IMAGE_MODELS


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
    if settings.get("image_model") not in IMAGE_MODELS:
        raise IncompatibleInputsError(
            f'The "model" input of {node} got a {type(inner or model).__name__}, but it needs a '
            'Latte model. Connect the MODEL output of "Latte Model Loader" (or of Load Diffusion '
            "Model with a Latte file)."
        )


def config_of(model: Any) -> Config:
    """Return the config of a MODEL that is a Latte."""
    return model.model.diffusion_model.config


def check_conditioning(conditioning: Any, socket: str, model: Any, node: str) -> None:
    """Refuse a CONDITIONING that the model does not read.

    Args:
        conditioning: what arrived.
        socket: its input, "positive" or "negative".
        model: a MODEL that is a Latte.
        node: the node.

    Raises:
        IncompatibleInputsError: naming the sockets, what came and which node gives the right one.
        InvalidInputError: for a class that the model does not have.
    """
    config = config_of(model)
    entries = conditioning if isinstance(conditioning, list) else []
    pairs = [entry for entry in entries if isinstance(entry, (list, tuple)) and len(entry) > 1]
    if not pairs:
        raise IncompatibleInputsError(missing(config, socket, node))
    for tensor, options in pairs:
        check_kind(config, options, socket, node)
        if isinstance(config, LatteT2VConfig):
            check_text(tensor, socket, config, node)
        elif kind_read(config) == CLASS:
            names = model.model.model_config.class_names()
            find_label(config, names, options, socket, node)


def check_guidance(cfg: float, config: Config, node: str) -> None:
    """Refuse guidance where the model has no class that stands for any.

    Raises:
        InvalidInputError: saying which cfg works.
    """
    if cfg <= 1 or kind_read(config) != CLASS or isinstance(config, LatteT2VConfig):
        return
    if not config.has_null_class:
        raise InvalidInputError(
            f"cfg of {node} is {cfg:g}, but guidance leads away from any class, and this model was "
            "trained without one (class_dropout_prob 0). Set cfg to 1."
        )


def missing(config: Config, socket: str, node: str) -> str:
    """Return the sentence for an input that holds nothing the model can read."""
    read = kind_read(config)
    kind = "conditioning" if read != "text" else "text conditioning"
    return f'The "{socket}" input of {node} holds no {kind}. {advice(config)}'


def advice(config: Config) -> str:
    """Say which node gives a model its conditioning."""
    read = kind_read(config)
    encoder = " with the text encoder that belongs to this model" if read == "text" else ""
    return f'Connect "{MAKERS[read]}"{encoder}.'


def check_text(tensor: Any, socket: str, config: LatteT2VConfig, node: str) -> None:
    """Refuse text that another kind of text encoder made.

    Raises:
        IncompatibleInputsError: naming the socket, the widths and which node gives the right one.
    """
    if not isinstance(tensor, Tensor):
        raise IncompatibleInputsError(missing(config, socket, node))
    width = config.caption_channels
    if tensor.ndim == 3 and tensor.shape[2] == width:
        return
    raise IncompatibleInputsError(
        f'The "{socket}" input of {node} got text of width {tensor.shape[-1]}, but its model '
        f"expects {width}.{guess_encoder(tensor.shape[-1])} {advice(config)}"
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


def check_latent_size(samples: Tensor, socket: str, config: Config, node: str) -> None:
    """Refuse sides that are not whole patches, naming the two nearest sizes; frames likewise.

    Raises:
        InvalidInputError: for a side that is no multiple of the patch (16 pixels for most models).
    """
    multiple = config.patch_size * PIXELS_PER_CELL
    for name, cells in (("high", samples.shape[-2]), ("wide", samples.shape[-1])):
        side = cells * PIXELS_PER_CELL
        if side % multiple:
            raise InvalidInputError(
                f'The "{socket}" input of {node} is {side} pixels {name}, but this Latte needs a '
                f"multiple of {multiple}. The nearest sizes are {neighbours(side, multiple)}. "
                "KSampler accepts any size: the model then pads and crops."
            )
    frames = samples.shape[2] if samples.ndim == 5 else samples.shape[0]
    tubelet = 1 if isinstance(config, LatteT2VConfig) else config.tubelet_size
    if frames % tubelet:
        raise InvalidInputError(
            f'The "{socket}" input of {node} has {frames} frames, but this Latte joins {tubelet} '
            f"of them. The nearest numbers are {neighbours(frames, tubelet)}."
        )


def neighbours(value: int, multiple: int) -> str:
    """Return the nearest multiples around a value; there is only one below the first."""
    below = value - value % multiple
    return f"{below} and {below + multiple}" if below else f"{multiple}"


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
