"""Checks that LoRA files of our own training do in ComfyUI's loaders what they were made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from host import STARTER, Stage, expect, relative
from tiny import core_model, frames, label

STRENGTH, RANK, ALPHA = 0.7, 3, 6.0
ALL = ("attention", "cross_attention", "feed_forward")


def starter(stage: Stage) -> Any:
    """Return the starter's transformer as a training run loads it."""
    with torch.inference_mode(mode=False):
        load = stage.part("latte_core.checkpoint.loading.loader").load_transformer
        return load(STARTER / "transformer")


def write_file(stage: Stage, name: str, model: Any, **changes: Any) -> dict[str, torch.Tensor]:
    """Train nothing, but give adapters random numbers and write them; return them."""
    lora = stage.part("latte_core.model.weights.lora")
    writer = stage.part("latte_core.checkpoint.lora.writer")
    settings = lora.LoraSettings(rank=RANK, alpha=ALPHA, targets=ALL, **changes)
    draws = torch.Generator().manual_seed(0)
    with torch.inference_mode(mode=False), torch.no_grad():
        for up in lora.add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws) * 0.05)
        tensors = {key: value.clone() for key, value in lora.lora_state(model).items()}
        lora.remove_lora(model)
    target = Path(folder_paths.get_folder_paths("loras")[0]) / name
    writer.write_lora(target, tensors, settings=settings, base="tiny", steps=1)
    return tensors


def require_exact(stage: Stage, model: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Open a LoRA with the stock loader, compare every weight, and return the patched MODEL."""
    import comfy.lora

    patched = stage.call(
        "LoraLoaderModelOnly", model=model, lora_name=name, strength_model=STRENGTH
    )[0]
    layers = {key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")}
    expect(set(patched.patches) == {f"{layer}.weight" for layer in layers}, len(patched.patches))
    weights = model.model.state_dict()
    for layer in layers:
        key = f"{layer}.weight"
        plain = weights[key].float()
        found = comfy.lora.calculate_weight(patched.patches[key], plain.clone(), key)
        product = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        expected = STRENGTH * ALPHA / RANK * product
        expect(bool((found - plain - expected).abs().max() < 1e-6), layer)
        expect(bool((found - plain).abs().max() > 1e-3), layer)
    return patched


def merged_model(stage: Stage, core: Any, name: str) -> Any:
    """Merge a LoRA with latte_core, save all weights, and open them with the stock loader."""
    reader = stage.part("latte_core.checkpoint.lora.reader")
    with torch.inference_mode(mode=False):
        reader.merge_lora_file(
            core, Path(folder_paths.get_folder_paths("loras")[0]) / name, STRENGTH
        )
    target = (
        Path(folder_paths.get_folder_paths("diffusion_models")[0]) / f"merged_{Path(name).name}"
    )
    weights = {key: value.detach().contiguous() for key, value in core.state_dict().items()}
    safetensors.torch.save_file(weights, target, {"config": json.dumps(core.config.to_dict())})
    return stage.call("UNETLoader", unet_name=target.name, weight_dtype="default")[0]


def check_our_lora_of_a_text_model_is_exact_in_the_stock_loader(stage: Stage) -> str:
    base = stage.ksampler()
    for kind, count in (("spatial", 10), ("temporal", 6), ("both", 16)):
        core = starter(stage)
        name = f"own_{kind}.safetensors"
        tensors = write_file(stage, name, core, blocks=kind)
        expect(len(tensors) == 3 * count * core.config.num_layers, len(tensors))
        out = stage.ksampler(require_exact(stage, stage.model, name, tensors))
        error = relative(out, stage.ksampler(merged_model(stage, core, name)))
        expect(error < 1e-5, kind, error)
        expect(relative(out, base) > 1e-3, kind)
    expect(torch.equal(stage.ksampler(), base), "the base model changed")
    return f"{error:.1e}"


def check_our_lora_of_a_class_model_is_exact_in_the_stock_loader(stage: Stage) -> str:
    for variant in (1, 2, 3, 4):
        core = core_model(stage, variant=variant)
        weights = {key: value.contiguous() for key, value in core.state_dict().items()}
        target = (
            Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "lora_base.safetensors"
        )
        safetensors.torch.save_file(weights, target, {"config": json.dumps(core.config.to_dict())})
        model = stage.call("UNETLoader", unet_name=target.name, weight_dtype="default")[0]
        name = f"own_variant_{variant}.safetensors"
        tensors = write_file(stage, name, core)
        patched = require_exact(stage, model, name, tensors)
        given = {**label(stage), "latent_image": frames(stage)}
        error = relative(
            stage.ksampler(patched, **given),
            stage.ksampler(merged_model(stage, core, name), **given),
        )
        expect(error < 1e-5, variant, error)
        expect(relative(stage.ksampler(patched, **given), stage.ksampler(model, **given)) > 1e-3)
    return f"{error:.1e}"


def check_our_lora_is_exact_in_the_latte_loader(stage: Stage) -> None:
    name = "own_motion.safetensors"
    write_file(stage, name, starter(stage), blocks="temporal")
    given = {"model": stage.model, "lora_name": name}
    own, report = stage.call("LatteLoraLoader", **given, strength=STRENGTH)
    stock = stage.call("LoraLoaderModelOnly", **given, strength_model=STRENGTH)[0]
    expect(torch.equal(stage.ksampler(own), stage.ksampler(stock)), report)
