"""Tiny random models without text, as files of ComfyUI's folders and as latte_core loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from host import Stage

CLASSES = {
    "input_size": 8,
    "patch_size": 2,
    "hidden_size": 16,
    "depth": 4,
    "num_heads": 2,
    "num_frames": 3,
    "conditioning": "class",
    "num_classes": 5,
}
NONE = {"conditioning": "none", "num_classes": 0}
IMAGE = {"has_temporal": False, "num_frames": 1, "num_classes": 1000}
NAMES = ["red circle", "blue circle", "red square", "blue square", "green square"]
VARIETIES: dict[str, dict[str, Any]] = {
    "class": {},
    "none": NONE,
    "late_fusion": {"variant": 2},
    "two_attentions": {"variant": 3, "depth": 3},
    "parallel": {"variant": 4, "depth": 3},
    "patch_4": {"patch_size": 4},
    "patch_8": {"patch_size": 8, **NONE},
    "tubelets": {"tubelet_size": 2, "num_frames": 4},
    "tokens": {"injection": "tokens"},
    "rotary": {"temporal_positions": "rotary"},
    "no_null_class": {"class_dropout_prob": 0.0},
    "fixed_variance": {"learn_sigma": False},
    "image": IMAGE,
}


def core_model(stage: Stage, **changes: Any) -> Any:
    """Return a latte_core model with the same random weights on every call, and true tables."""
    part = stage.part("latte_core.model.latte.transformer")
    config = stage.part("latte_core.config.latte").LatteConfig.from_dict({**CLASSES, **changes})
    with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False), torch.no_grad():
        torch.manual_seed(0)
        model = part.Latte(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        part.fill_tables(model)
    return model.eval()


def write_file(
    stage: Stage, name: str, *, has_config: bool = True, prefix: str = "", **changes: Any
) -> str:
    """Write a model into models/diffusion_models, with its config in the header; its name."""
    model = core_model(stage, **changes)
    weights = {f"{prefix}{key}": value.contiguous() for key, value in model.state_dict().items()}
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / f"{name}.safetensors"
    metadata = {"config": json.dumps(model.config.to_dict())} if has_config else None
    safetensors.torch.save_file(weights, target, metadata)
    return target.name


def write_folder(stage: Stage, folder: Path, *, names: list[str] | None = NAMES, **changes: Any):
    """Write a class model as the class starter lies in the pack; return its folder."""
    model = core_model(stage, **changes)
    target = folder / "transformer"
    target.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        target / "diffusion_pytorch_model.safetensors",
    )
    (target / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    if names is not None:
        (folder / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def load(stage: Stage, variety: str = "class", dtype: str = "fp32") -> Any:
    """Open a variety with Latte Model Loader."""
    name = write_file(stage, f"tiny_{variety}", **VARIETIES[variety])
    return stage.call("LatteModelLoader", model_name=name, weight_dtype=dtype)[0]


def label(stage: Stage, number: int | str = 3) -> dict[str, Any]:
    """Return positive and negative of Latte Class Label."""
    given = {"class_name": number, "class_number": -1}
    if not isinstance(number, str):
        given = {"class_name": "Archery", "class_number": number}
    positive, negative = stage.call("LatteClassLabel", **given)
    return {"positive": positive, "negative": negative}


def nothing(stage: Stage) -> dict[str, Any]:
    """Return positive and negative of Latte Unconditional."""
    positive, negative = stage.call("LatteUnconditional")
    return {"positive": positive, "negative": negative}


def given_for(stage: Stage, variety: str) -> dict[str, Any]:
    """Return what a variety is conditioned on."""
    is_none = VARIETIES[variety].get("conditioning") == "none"
    return nothing(stage) if is_none else label(stage)


def frames(stage: Stage, count: int = 3, side: int = 64) -> dict[str, Any]:
    """Return an empty latent."""
    return stage.latent(frames=count, height=side, width=side)
