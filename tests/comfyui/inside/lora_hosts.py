"""Checks that a LoRA means the same to every host, whoever trained it, wherever its alpha is."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from host import Stage, expect, expect_error, relative
from lora import merged_model, starter

STRENGTH, RANK, ALPHA, QUERY_ALPHA = 0.7, 4, 16.0, 2.0
SIZE = 0.2  # of the matrices; the effect has to stand well above what float32 rounds
PATTERN = r"transformer_blocks\.\d+\.attn1\.to_q"  # of the spatial blocks alone
STARTS = {
    "peft": "base_model.model.",
    "pixart": "unet.base_model.model.",
    "diffusers": "transformer.",
    "bare": "",
    "own": "diffusion_model.",
}
Put = Callable[[Stage, str, float], Any]


def loras() -> Path:
    """Return ComfyUI's folder of LoRAs."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def layer_names() -> list[str]:
    """Return the layers that the LoRA changes."""
    start = ("transformer_blocks", "temporal_transformer_blocks")
    return [f"{kind}.{block}.attn1.to_{one}" for kind in start for block in (0, 3) for one in "qv"]


def matrices(*, zeros: bool = False) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return A and B of each layer, the same at each call."""
    draws = torch.Generator().manual_seed(5)
    found = {}
    for layer in layer_names():
        down = torch.randn(RANK, 160, generator=draws) * SIZE
        up = torch.randn(160, RANK, generator=draws) * SIZE
        found[layer] = (down, up * (not zeros))
    return found


def alpha_of(layer: str) -> float:
    """Return the alpha that every form of the LoRA states for a layer."""
    is_query = layer.startswith("transformer_blocks") and layer.endswith("to_q")
    return QUERY_ALPHA if is_query else ALPHA


def write(form: str, *, zeros: bool = False) -> str:
    """Write the LoRA as a trainer would, and return its name in the folder."""
    tensors: dict[str, torch.Tensor] = {}
    for layer, (down, up) in matrices(zeros=zeros).items():
        if form == "kohya":
            start = f"lora_unet_{layer.replace('.', '_')}"
            tensors |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
        else:
            start = STARTS[form] + layer
            tensors |= {f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}
        if form in ("kohya", "own", "bare"):
            tensors[f"{start}.alpha"] = torch.tensor(alpha_of(layer))
    settings = {"lora_alpha": ALPHA, "r": RANK, "alpha_pattern": {PATTERN: QUERY_ALPHA}}
    folder = loras() / f"{form}{'_zeros' if zeros else ''}"
    folder.mkdir(exist_ok=True)
    name, metadata = "look.safetensors", None
    if form in ("peft", "pixart"):
        name = "adapter_model.safetensors"
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "LORA"}))
    if form == "diffusers":
        named = {f"transformer.{key}": value for key, value in settings.items()}
        metadata = {"lora_adapter_metadata": json.dumps(named)}
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 64}))  # a neighbour's
    safetensors.torch.save_file(tensors, folder / name, metadata)
    return f"{folder.name}/{name}"


def latte_loader(stage: Stage, name: str, strength: float) -> torch.Tensor:
    given = {"model": stage.model, "lora_name": name, "strength": strength}
    return stage.ksampler(stage.call("LatteLoraLoader", **given)[0], steps=1)


def stock_loader(stage: Stage, name: str, strength: float) -> torch.Tensor:
    given = {"model": stage.model, "lora_name": name, "strength_model": strength}
    return stage.ksampler(stage.call("LoraLoaderModelOnly", **given)[0], steps=1)


def with_hooks(stage: Stage, hooks: Any, model: Any = None) -> torch.Tensor:
    """Sample with hooks on both conditionings."""
    given = {"positive_NEW": stage.positive, "negative_NEW": stage.negative, "hooks": hooks}
    pair = stage.call(
        "PairConditioningSetProperties", **given, strength=1.0, set_cond_area="default"
    )
    return stage.ksampler(model, positive=pair[0], negative=pair[1], steps=1)


def hook(stage: Stage, name: str, strength: float) -> torch.Tensor:
    return with_hooks(
        stage, stage.call("CreateHookLoraModelOnly", lora_name=name, strength_model=strength)[0]
    )


def hook_at_half(stage: Stage, name: str, strength: float) -> torch.Tensor:
    given = {"lora_name": name, "strength_model": 2 * strength}
    hooks = stage.call("CreateHookLoraModelOnly", **given)[0]
    half = stage.call("CreateHookKeyframe", strength_mult=0.5, start_percent=0.0)[0]
    return with_hooks(stage, stage.call("SetHookKeyframes", hooks=hooks, hook_kf=half)[0])


def registered_hook(stage: Stage, name: str, strength: float) -> torch.Tensor:
    """Do what AnimateDiff-Evolved's LoRA loaders do."""
    import comfy.hooks
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(loras() / name), safe_load=True)
    model, _, hooks = comfy.hooks.load_hook_lora_for_models(
        model=stage.model, clip=None, lora=lora, strength_model=strength, strength_clip=0
    )
    return with_hooks(stage, hooks, model)


def scaled_alphas(stage: Stage, name: str, strength: float) -> torch.Tensor:
    """Do what KJNodes' advanced loader does: a share of the strength goes into each alpha."""
    import comfy.lora
    from comfy.utils import load_torch_file

    lora = load_torch_file(str(loras() / name), safe_load=True)
    key_map: dict[str, Any] = comfy.lora.model_lora_keys_unet(stage.model.model, {})
    loaded = comfy.lora.load_lora(lora, key_map)
    for adapter in loaded.values():
        weights = list(adapter.weights)
        weights[2] = (1.0 if weights[2] is None else weights[2]) * 0.5
        adapter.weights = tuple(weights)
    model = stage.model.clone()
    model.add_patches(loaded, 2 * strength)
    return stage.ksampler(model, steps=1)


HOSTS: tuple[Put, ...] = (
    *(latte_loader, stock_loader, hook, hook_at_half, registered_hook, scaled_alphas),
)


def check_a_lora_means_the_same_in_every_host(stage: Stage) -> str:
    own = write("own")
    base = stage.ksampler(steps=1)
    expected = stage.ksampler(merged_model(stage, starter(stage), own), steps=1)
    effect = (expected - base).abs().max()
    expect(relative(expected, base) > 1e-2, relative(expected, base))
    worst = 0.0
    for form in (*STARTS, "kohya"):
        name = own if form == "own" else write(form)
        for host in HOSTS:
            error = float((host(stage, name, STRENGTH) - expected).abs().max() / effect)
            expect(error < 1e-4, form, host.__name__, error)
            worst = max(worst, error)
        merged = stage.ksampler(merged_model(stage, starter(stage), name), steps=1)
        expect(torch.equal(merged, expected), form, "merge")
    expect(torch.equal(stage.ksampler(steps=1), base), "the base model changed")
    return f"{worst:.1e}"


class Lines(logging.Handler):
    """Keeps what the pack logs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.found.append(f"{record.levelname} {record.getMessage()}")


def said(call: Callable[[], Any]) -> str:
    """Return what the pack logs during a call."""
    logger, lines = logging.getLogger("latte"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        call()
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
    return "\n".join(lines.found)


def put_everywhere(stage: Stage, name: str) -> list[Callable[[], Any]]:
    """Return how each host puts a LoRA on, not yet called."""
    return [lambda host=host: host(stage, name, STRENGTH) for host in HOSTS]


def check_a_lora_without_effect_is_told_in_every_host(stage: Stage) -> None:
    for call in put_everywhere(stage, write("peft", zeros=True)):
        text = said(call)
        expect("WARNING" in text and "no effect" in text and "all 8 layers" in text, text)


def check_a_lora_that_matches_in_part_is_counted_in_every_host(stage: Stage) -> None:
    name = write("bare")
    tensors = safetensors.torch.load_file(loras() / name)
    more = {f"stray.{number}.lora_A.weight": torch.ones(1) for number in range(3)}
    safetensors.torch.save_file({**tensors, **more}, loras() / "part.safetensors")
    for call in put_everywhere(stage, "part.safetensors"):
        text = said(call)
        expect("changes 8 layers" in text and "3 names were not used" in text, text)


def check_a_lora_that_cannot_be_used_is_refused_in_every_host(stage: Stage) -> None:
    tensors = safetensors.torch.load_file(loras() / write("own"))
    start = f"diffusion_model.{layer_names()[0]}"
    wide = {
        f"{start}.lora_A.weight": torch.ones(4, 96),
        f"{start}.lora_B.weight": torch.ones(96, 4),
    }
    huge = {f"{start}.alpha": torch.tensor(1e308, dtype=torch.float64)}
    broken = {f"{start}.lora_B.weight": torch.full((160, 4), float("nan"))}
    other = {"transformer.single_blocks.0.to_q.lora_A.weight": torch.ones(4, 4)}
    cases = (
        ("IncompatibleInputsError", ["96 rows", "160"], {**tensors, **wide}),
        ("CorruptCheckpointError", ["alpha", "1e+308"], {**tensors, **huge}),
        ("CorruptCheckpointError", ["NaN", ".lora_B.weight"], {**tensors, **broken}),
        ("UnknownArchitectureError", ["none of its 1 names fits"], other),
    )
    for kind, words, held in cases:
        safetensors.torch.save_file(held, loras() / "bad.safetensors")
        for call in put_everywhere(stage, "bad.safetensors"):
            expect_error(kind, words, call)
    name = write("peft")
    (loras() / name).with_name("adapter_config.json").write_text('{"lora_alpha": "16"}')
    for call in put_everywhere(stage, name):
        expect_error("CorruptCheckpointError", ["lora_alpha is '16'"], call)


def check_loras_of_other_models_pass_as_they_are(stage: Stage) -> None:
    import comfy.lora
    import comfy.utils

    name = write("peft")
    lora = comfy.utils.load_torch_file(str(loras() / name), safe_load=True)
    key_map = {f"base_model.model.{layer}": layer for layer in layer_names()}
    loaded = comfy.lora.load_lora(lora, key_map)
    plain = comfy.lora.load_lora.__wrapped__(dict(lora), key_map)
    expect(set(loaded) == set(plain) == set(layer_names()), list(loaded))
    expect(all(adapter.weights[2] is None for adapter in loaded.values()), "alpha was added")
    clip = stage.call(
        "LoraLoader",
        model=stage.model,
        clip=stage.clip,
        lora_name=name,
        strength_model=STRENGTH,
        strength_clip=1.0,
    )[1]
    expect(not clip.patcher.patches, "the text encoder was changed")


def check_an_extracted_lora_means_the_same_in_every_host(stage: Stage) -> str:
    given = {"model": stage.model, "lora_name": write("own"), "strength_model": STRENGTH}
    changed = stage.call("LoraLoaderModelOnly", **given)[0]
    changed.add_patches(biases(stage), 1.0)
    difference = stage.call(
        "ModelMergeSubtract", model1=changed, model2=stage.model, multiplier=1.0
    )[0]
    given = {"filename_prefix": "extracted", "rank": RANK, "lora_type": "standard"}
    stage.call("LoraSave", **given, bias_diff=True, model_diff=difference)
    (written,) = Path(folder_paths.get_output_directory()).glob("extracted*.safetensors")
    shutil.copyfile(written, loras() / "extracted.safetensors")
    base = stage.ksampler(steps=1)
    merged = merged_model(stage, starter(stage), "extracted.safetensors")
    expected = stage.ksampler(merged, steps=1)
    effect = (expected - base).abs().max()
    expect(relative(expected, base) > 1e-2)
    worst = 0.0
    for host in (latte_loader, stock_loader, hook, hook_at_half, registered_hook):
        found = host(stage, "extracted.safetensors", STRENGTH)
        worst = max(worst, float((found - expected).abs().max() / effect))
        expect(worst < 1e-4, host.__name__, worst)
    return f"{worst:.1e}"


def check_other_settings_are_seen_by_comfyuis_cache(stage: Stage) -> None:
    name, node = write("peft"), stage.own["LatteLoraLoader"]
    before = node.IS_CHANGED(lora_name=name)
    expect(node.IS_CHANGED(lora_name=name) == before, "it changes by itself")
    settings = (loras() / name).with_name("adapter_config.json")
    settings.write_text('{"lora_alpha": 3}')
    os.utime(settings, ns=(0, settings.stat().st_mtime_ns + 10**9))
    expect(node.IS_CHANGED(lora_name=name) != before, "other settings were not seen")


def biases(stage: Stage) -> dict[str, Any]:
    """Return a change of some biases as ComfyUI's patches."""
    weights = stage.model.model.state_dict()
    keys = [f"diffusion_model.{layer}.bias" for layer in layer_names()]
    return {key: ("diff", (torch.ones_like(weights[key]),)) for key in keys if key in weights}
