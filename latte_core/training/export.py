"""Write what a run has trained, in the layout that every loader here opens."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.lora.writer import write_lora
from ..checkpoint.writing.writer import write_safetensors
from ..files import atomic_write
from ..model.latte.transformer import Latte
from ..model.weights.lora import NATIVE_PREFIX, lora_state
from ..pipelines.model_folders import read_card
from ..pipelines.text.parts import Defaults
from ..shipped import STARTER, STARTER_FOLDER
from .run_folder import RunFolder
from .subject import Subject, companions_of
from .train_config import TrainConfig

COMPANIONS = (
    *("text_encoder", "tokenizer", "vae", "vae_temporal_decoder", "scheduler"),
    "model_index.json",
)
MOST_COPIED = 64 * 2**20  # bytes; larger text encoders and VAEs stay where they are
LORA_NAME = "lora.safetensors"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"

logger = logging.getLogger("latte")


def write_result(
    folder: RunFolder,
    subject: Subject,
    config: TrainConfig,
    step: int,
    weights: Mapping[str, Tensor],
    class_names: tuple[str, ...] = (),
) -> Path:
    """Write the trained weights.

    An adapter is one file, `lora.safetensors`. A model is a folder with `transformer/` and, where
    they are small, the text encoder and VAE it was trained with.

    Args:
        folder: of the run.
        subject, config: what was trained, and how.
        step: updates that were made.
        weights: all parameters of the transformer, whole.
        class_names: in the order of labels.

    Returns:
        The file or folder.
    """
    target = folder.result
    target.mkdir(parents=True, exist_ok=True)
    if config.lora is not None:
        transformer: Any = subject.transformer
        path = target / LORA_NAME
        write_lora(
            path,
            cpu_copy(adapters(lora_state(transformer), weights)),
            settings=config.lora,
            base=subject.base,
            steps=step,
        )
        return path
    write_transformer(target, subject, weights, class_names)
    if subject.task == "text":
        source = companions_of(subject.source)
        copy_companions(source, target)
        write_text_card(source, target, subject)
    else:
        write_class_files(target, subject, class_names)
    return target


def write_json(path: Path, values: object) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def cpu_copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def adapters(state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file with the matrices of `weights`."""
    whole = {f"{NATIVE_PREFIX}{name}": value for name, value in weights.items()}
    return {name: whole.get(name, value) for name, value in state.items()}


def write_transformer(
    target: Path, subject: Subject, weights: Mapping[str, Tensor], class_names: tuple[str, ...]
) -> None:
    """Write transformer/ with its config beside and inside the weights."""
    transformer: Any = subject.transformer
    values: dict[str, Any] = transformer.config.to_dict()
    inside = {**values, "_class_names": list(class_names)} if class_names else values
    folder = target / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", values)
    names = list(transformer.state_dict())  # LatteT2V and Latte keep nothing but parameters
    tensors = {name: weights[name].to(torch.float32) for name in names}
    write_safetensors(folder / WEIGHTS_NAME, cpu_copy(tensors), {"config": json.dumps(inside)})


def copy_companions(source: Path, target: Path, names: tuple[str, ...] = COMPANIONS) -> None:
    """Copy text encoder, VAE and the like of the base model, unless they are large."""
    found = [source / name for name in names if (source / name).exists()]
    size = sum(
        file.stat().st_size
        for one in found
        for file in ([one] if one.is_file() else one.rglob("*"))
        if file.is_file()
    )
    if size > MOST_COPIED:
        logger.info(
            "The text encoder and VAE are not copied (%.1f GB). To use the result alone, put it "
            "into a folder with those of %s, or choose it beside them in ComfyUI's loaders.",
            size / 1e9,
            source.name,
        )
        return
    for one in found:
        if one.is_dir():
            shutil.copytree(one, target / one.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(one, target / one.name)


def write_text_card(source: Path, target: Path, subject: Subject) -> None:
    """Write how to run the model, where its base says so; what the base scores is left out."""
    if (source / "card.json").is_file():
        card = read_card(source)
        kept = {key: card[key] for key in Defaults.__dataclass_fields__ if key in card}
        write_json(
            target / "card.json", {"name": target.parent.name, "base": subject.base.name, **kept}
        )


def write_class_files(target: Path, subject: Subject, class_names: tuple[str, ...]) -> None:
    """Write names of classes, how to run the model, and the VAE that its latents are of."""
    if class_names:
        write_json(target / "classes.json", list(class_names))
    assert isinstance(subject.transformer, Latte)
    model = subject.transformer.config
    side = model.input_size * 8
    source = companions_of(subject.source)
    card: dict[str, Any] = {
        "name": target.parent.name,
        "method": "ddim",
        "steps": "50",
        "guidance_scale": 2.0 if model.has_null_class else 1.0,
        "num_frames": model.num_frames,
        "height": side,
        "width": side,
    }
    if source == STARTER_FOLDER:
        card["vae"] = STARTER
    else:
        copy_companions(source, target, ("vae", "vae_temporal_decoder"))
    write_json(target / "card.json", card)
