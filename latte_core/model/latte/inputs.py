"""Checks of what a Latte is called with; each error names what was found and what would fit."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.latte import LatteConfig
from ...errors import IncompatibleInputsError, InvalidInputError
from ...transfers import send


def check_latents(config: LatteConfig, latents: Tensor, num_images: int) -> tuple[int, int]:
    """Return the rows and columns of tokens in each frame of latents (B, C, F, h, w).

    Raises:
        IncompatibleInputsError: for latents of another kind of model.
        InvalidInputError: for a size or a number of images that does not fit.
    """
    if latents.ndim != 5 or latents.shape[1] != config.in_channels or 0 in latents.shape:
        raise IncompatibleInputsError(
            f"The latents have shape {tuple(latents.shape)}, but this Latte model expects "
            f"(videos, {config.in_channels}, frames, height, width), nothing of it empty."
        )
    if not latents.is_floating_point():
        raise InvalidInputError(
            f"The latents have type {latents.dtype}, but Latte needs floating-point numbers."
        )
    frames, height, width = latents.shape[2:]
    if height % config.patch_size or width % config.patch_size:
        raise InvalidInputError(
            f"The latents are {height} x {width} cells, but sides must be multiples of "
            f"{config.patch_size} cells ({8 * config.patch_size} pixels)."
        )
    if frames % config.tubelet_size:
        raise InvalidInputError(
            f"The latents have {frames} frames, but this Latte joins {config.tubelet_size} "
            f"frames in a token, so their number must be a multiple of {config.tubelet_size}."
        )
    if num_images and config.tubelet_size > 1:
        raise InvalidInputError(
            f"{num_images} frames were given as single images, but this Latte joins "
            f"{config.tubelet_size} frames in a token. Train it on clips alone."
        )
    if not 0 <= num_images < frames:
        raise InvalidInputError(
            f"{num_images} of {frames} frames were given as single images, but it must be 0 to "
            f"{frames - 1}: at least one frame belongs to the clip."
        )
    return height // config.patch_size, width // config.patch_size


def check_timesteps(timesteps: Tensor, latents: Tensor) -> Tensor:
    """Return timesteps (B,), (1,) or () as (B,) on the device of the latents; nobody waits for it.

    Raises:
        IncompatibleInputsError: for another number of them than videos.
    """
    timesteps, batch = send(torch.as_tensor(timesteps), latents.device), latents.shape[0]
    if timesteps.ndim > 1 or timesteps.numel() not in (1, batch):
        raise IncompatibleInputsError(
            f"There are timesteps of shape {tuple(timesteps.shape)} for {batch} videos. Give one "
            "for each video, or a single one for all."
        )
    return timesteps.expand(batch)


def check_conditioning(
    config: LatteConfig,
    labels: Tensor | None,
    text: Tensor | None,
    image_labels: Tensor | None,
    drop_labels: Tensor | None,
    num_images: int,
) -> None:
    """Refuse label or text where the model has no use for it, and miss it where it needs it.

    Raises:
        InvalidInputError: if something is missing.
        IncompatibleInputsError: if something is given that the model does not read.
    """
    kind = config.conditioning
    if kind == "class" and labels is None:
        anything = f" ({config.null_class} means any class)" if config.has_null_class else ""
        raise InvalidInputError(
            f"This Latte model makes videos of {config.num_classes} classes, but no class label "
            f"was given. Pass `class_labels`, 0 to {config.num_classes - 1}{anything}."
        )
    if kind == "clip_text" and text is None:
        raise InvalidInputError(
            "This Latte model was trained with CLIP text, but got none. Pass `text_embedding` "
            f"with {config.text_features} values for each video."
        )
    of_labels = (labels, image_labels, drop_labels)
    if kind != "class" and any(item is not None for item in of_labels):
        raise IncompatibleInputsError(
            "A class label was given, but this Latte model has no classes. Leave it out, or "
            "load a class-conditional model such as ucf101."
        )
    if kind != "clip_text" and text is not None:
        reads = "a class label" if kind == "class" else "neither text nor labels"
        raise IncompatibleInputsError(
            f"A text embedding was given, but this Latte model reads {reads}. Leave the text "
            "out, or load a text-to-video model."
        )
    if image_labels is not None and not num_images:
        raise IncompatibleInputsError(
            f"Image labels of shape {tuple(image_labels.shape)} were given without images. Say "
            "in `num_images` how many of the last frames are single images."
        )


def check_text(config: LatteConfig, text: Tensor, batch: int) -> Tensor:
    """Return CLIP text (B, 77, 768), or already flat, as (B, features); one row serves all.

    Raises:
        IncompatibleInputsError: for text of another size, or for another number of videos.
    """
    if text.ndim < 2 or text[0].numel() != config.text_features or len(text) not in (1, batch):
        raise IncompatibleInputsError(
            f"The text embedding has shape {tuple(text.shape)}, but this Latte model expects "
            f"{config.text_features} values (77 CLIP tokens of 768 values are 59136) for each of "
            f"{batch} videos, or once for all."
        )
    return text.flatten(1).expand(batch, -1)


def check_labels(config: LatteConfig, labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return labels of the given shape as int64; a single one serves all.

    Labels on the CPU are checked without waiting for an accelerator.

    Raises:
        InvalidInputError: for labels that are no whole numbers or out of range.
        IncompatibleInputsError: for another number of labels.
    """
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise InvalidInputError(
            f"Class labels must be whole numbers, but have type {labels.dtype}."
        )
    if labels.numel() == 1:
        labels = labels.reshape([1] * len(shape)).expand(shape)
    if labels.shape != shape:
        raise IncompatibleInputsError(
            f"There are class labels of shape {tuple(labels.shape)}, but {shape} are needed: one "
            "for each video (and image), or a single one for all."
        )
    is_recorded = labels.is_cuda and torch.cuda.is_current_stream_capturing()
    if not labels.is_meta and not is_recorded:  # numbers cannot be looked at while recording
        check_label_range(config, labels)
    return labels.long()


def check_label_range(config: LatteConfig, labels: Tensor) -> None:
    """Refuse labels without a row in the model's table.

    Raises:
        InvalidInputError: naming the label and the range.
    """
    low, high = map(int, torch.stack(torch.aminmax(labels)).cpu())  # one wait for an accelerator
    if 0 <= low and high < config.num_labels:
        return
    if high == config.null_class and low >= 0:
        raise InvalidInputError(
            f"The label {high} (any class) was given, but this Latte model was trained without "
            "dropping labels and has no such class. Guidance needs it: use a guidance scale of 1."
        )
    anything = f", and {config.null_class} for any class" if config.has_null_class else ""
    raise InvalidInputError(
        f"The class label {low if low < 0 else high} is out of range: this Latte model knows the "
        f"classes 0 to {config.num_classes - 1}{anything}."
    )


def check_dropped(config: LatteConfig, dropped: Tensor, labels: Tensor) -> Tensor:
    """Return which rows of labels (B, R) are dropped, from (B,), as (B, 1) truth values.

    Raises:
        InvalidInputError: if the model has no class to put in their place.
        IncompatibleInputsError: for another number of values than videos.
    """
    if not config.has_null_class:
        raise InvalidInputError(
            "Labels were to be dropped, but this Latte model has class_dropout_prob = 0 and so no "
            "class that stands for any. Leave `drop_labels` out."
        )
    if dropped.shape != labels.shape[:1]:
        raise IncompatibleInputsError(
            f"`drop_labels` has shape {tuple(dropped.shape)}, but needs one value for each of "
            f"{labels.shape[0]} videos."
        )
    return dropped.to(device=labels.device, dtype=torch.bool)[:, None]
