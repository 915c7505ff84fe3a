"""Checks that models without text are native MODELs: detected, loaded, saved and patched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import torch
from host import Stage, expect, expect_error, relative
from tiny import (
    NAMES,
    NONE,
    VARIETIES,
    core_model,
    given_for,
    label,
    load,
    nothing,
    write_file,
    write_folder,
)
from tiny import frames as empty

TINY = 1e-5


def call_model(model: Any, x: torch.Tensor, labels: list[int] | None, conds: int = 1) -> Any:
    """Call the diffusion model once at timestep 500."""
    given = {} if labels is None else {"y": torch.tensor(labels)}
    options = {"cond_or_uncond": list(range(conds))}
    steps = torch.full((x.shape[0],), 500.0)
    return model.model.diffusion_model(x, steps, transformer_options=options, **given)


def labels_of(model: Any, labels: list[int]) -> list[int] | None:
    """Return labels for a model with classes, None for another."""
    return labels if model.model.diffusion_model.config.conditioning == "class" else None


def check_every_variety_opens_in_both_loaders(stage: Stage) -> None:
    for variety, changes in VARIETIES.items():
        core = core_model(stage, **changes)
        name = write_file(stage, f"both_{variety}", **changes)
        count = core.config.num_frames
        x = torch.randn(count, 4, 8, 8)
        for node, key in (("LatteModelLoader", "model_name"), ("UNETLoader", "unet_name")):
            model = stage.call(node, **{key: name, "weight_dtype": "default"})[0]
            expect(type(model.model).__name__ == "LatteClassVideo", node, variety)
            expect(model.model.diffusion_model.config == core.config, node, variety)
            labels = labels_of(model, [3])
            given = () if labels is None else (torch.tensor(labels),)
            expected = core(x.transpose(0, 1)[None], torch.tensor([500.0]), *given)[:, :4]
            ours = call_model(model, x, labels)
            expect(relative(ours, expected[0].transpose(0, 1)) < TINY, node, variety)


def check_prefixed_files_open_in_checkpoint_loaders(stage: Stage) -> None:
    name = write_file(stage, "prefixed_class", prefix="model.diffusion_model.")
    source = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / name
    target = Path(folder_paths.get_folder_paths("checkpoints")[0]) / name
    shutil.move(source, target)
    found = stage.call("CheckpointLoaderSimple", ckpt_name=name)[0]
    expect(type(found.model).__name__ == "LatteClassVideo", type(found.model))


def check_released_files_need_no_config(stage: Stage) -> None:
    """Bare .pt files of a published width, and a training checkpoint with averaged weights."""
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    wide = {"hidden_size": 384, "num_heads": 6, "depth": 2}
    for name, changes in (("ucf", {"num_classes": 101}), ("ffs", NONE)):
        core = core_model(stage, **wide, **changes)
        torch.save(core.state_dict(), folder / f"{name}.pt")
        for node, key in (("LatteModelLoader", "model_name"), ("UNETLoader", "unet_name")):
            load_it = {key: f"{name}.pt", "weight_dtype": "default"}
            model = stage.call(node, **load_it)[0]
            expect(model.model.diffusion_model.config == core.config, node, name)
            names = model.model.model_config.class_names()
            expect(len(names) == core.config.num_classes, names)
    weights = {f"module.{k}": v for k, v in core.state_dict().items()}
    torch.save({"ema": weights, "model": {}, "opt": {}}, folder / "0001.pt")
    model = stage.call("LatteModelLoader", model_name="0001.pt", weight_dtype="fp32")[0]
    expect(model.model.diffusion_model.config == core.config)


def check_unclear_files_are_refused_by_both_loaders(stage: Stage) -> None:
    headless = write_file(stage, "headless", has_config=False)
    text = {"conditioning": "clip_text", "num_classes": 0, "text_features": 24}
    clip = write_file(stage, "clip_text", **text)
    for node, key in (("LatteModelLoader", "model_name"), ("UNETLoader", "unet_name")):
        for name, error, words in (
            (headless, "WeightMismatchError", ["width 16", "num_heads", "config.json"]),
            (clip, "IncompatibleInputsError", ["CLIP-text", "latte_core.load_transformer"]),
        ):
            given = {key: name, "weight_dtype": "default"}
            expect_error(error, words, lambda n=node, g=given: stage.call(n, **g))


def check_class_model_without_registration(stage: Stage) -> None:
    registration = stage.part("nodes.host.model.registration")
    expected = stage.ksampler(load(stage), **label(stage), latent_image=empty(stage))
    registration.unregister()
    try:
        found = stage.ksampler(load(stage), **label(stage), latent_image=empty(stage))
    finally:
        registration.register()
    expect(torch.equal(found, expected), "our loader must not need the registration")


def check_layouts_and_stacked_conds_agree(stage: Stage) -> None:
    for variety in ("class", "none", "parallel"):
        model = load(stage, variety)
        x = torch.randn(6, 4, 8, 6)
        flat = call_model(model, x, labels_of(model, [1, 5]), conds=2)
        videos = x.unflatten(0, (2, 3)).transpose(1, 2)
        whole = call_model(model, videos, labels_of(model, [1, 5]), conds=2)
        expect(relative(flat, whole.transpose(1, 2).flatten(0, 1)) < TINY, variety)
        alone = [
            call_model(model, x[3 * k : 3 * k + 3], labels_of(model, [(1, 5)[k]])) for k in (0, 1)
        ]
        expect(relative(flat, torch.cat(alone)) < TINY, variety)
        four = call_model(model, torch.cat([videos] * 2), labels_of(model, [1, 5]), conds=2)
        expect(four.shape[0] == 4, four.shape)


def check_odd_class_latents_are_padded_and_cropped(stage: Stage) -> None:
    for variety in ("class", "patch_4", "patch_8", "tubelets"):
        model = load(stage, variety)
        latent = {"samples": torch.zeros(5, 4, 7, 9)}
        out = stage.ksampler(model, latent_image=latent, **given_for(stage, variety))
        expect(out.shape == (5, 4, 7, 9) and bool(out.isfinite().all()), variety)


def check_class_schedule_is_plain_linear_beta(stage: Stage) -> None:
    sampling = load(stage).get_model_object("model_sampling")
    expected = stage.model.get_model_object("model_sampling").sigmas
    expect(torch.equal(sampling.sigmas, expected))


def check_class_models_survive_saving(stage: Stage) -> None:
    folder = Path(folder_paths.get_folder_paths("diffusers")[0]) / "tiny-classes"
    write_folder(stage, folder)
    model = stage.call("LatteModelLoader", model_name="tiny-classes/", weight_dtype="fp32")[0]
    names = model.model.model_config.class_names()
    expect(names == NAMES, names)
    given = {**label(stage, "green square"), "latent_image": empty(stage)}
    base = stage.ksampler(model, **given)
    by_number = {**label(stage, 4), "latent_image": empty(stage)}
    expect(torch.equal(stage.ksampler(model, **by_number), base))
    output = Path(folder_paths.get_output_directory())
    for old in output.glob("classes*"):
        old.unlink()
    stage.call("ModelSave", model=model, filename_prefix="classes")
    (file,) = output.glob("classes*")
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "saved_class.safetensors"
    shutil.move(file, target)
    for node, key in (("LatteModelLoader", "model_name"), ("UNETLoader", "unet_name")):
        again = stage.call(node, **{key: target.name, "weight_dtype": "default"})[0]
        expect(again.model.model_config.class_names() == NAMES, node)
        expect(relative(stage.ksampler(again, **given), base) < TINY, node)


def check_class_model_dtypes(stage: Stage) -> None:
    given = {**label(stage), "latent_image": empty(stage)}
    base = stage.ksampler(load(stage), **given)
    for dtype, limit in {"bf16": 0.3, "fp16": 0.1, "fp8_e4m3fn": 1.0, "fp8_e5m2": 2.0}.items():
        model = load(stage, dtype=dtype)
        inner = model.model.diffusion_model
        stored = inner.blocks[0].attn.qkv.weight.dtype
        expect(dtype[:3] in str(stored).replace("float", "fp").replace("bfp", "bf"), stored)
        expect(inner.pos_embed.dtype == torch.float32)
        out = stage.ksampler(model, **given)
        expect(bool(out.isfinite().all()) and relative(out, base) < limit, dtype)
        trained = stage.latte_sampler(model, method="ddpm", **given)
        expect(bool(trained.isfinite().all()), dtype)


def write_class_lora(stage: Stage, style: str) -> str:
    """Write a LoRA for two layers of a class model."""
    import safetensors.torch

    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for layer in ("blocks.0.attn.qkv", "blocks.1.attn.qkv"):
        up = torch.randn(48, 2, generator=generator)
        down = torch.randn(2, 16, generator=generator)
        if style == "kohya":
            flat = layer.replace(".", "_")
            tensors[f"lora_unet_{flat}.lora_up.weight"] = up
            tensors[f"lora_unet_{flat}.lora_down.weight"] = down
        else:
            start = {"native": "diffusion_model", "peft": "transformer"}[style]
            tensors[f"{start}.{layer}.lora_B.weight"] = up
            tensors[f"{start}.{layer}.lora_A.weight"] = down
    target = Path(folder_paths.get_folder_paths("loras")[0]) / f"class_{style}.safetensors"
    safetensors.torch.save_file(tensors, target)
    return target.name


def check_lora_on_class_models(stage: Stage) -> None:
    model = load(stage)
    given = {**label(stage), "latent_image": empty(stage)}
    base = stage.ksampler(model, **given)
    expected = None
    for style in ("native", "peft", "kohya"):
        name = write_class_lora(stage, style)
        patched, report = stage.call("LatteLoraLoader", model=model, lora_name=name, strength=1.0)
        expect("2 layers" in report and "spatial" not in report, report)
        out = stage.ksampler(patched, **given)
        expected = out if expected is None else expected
        expect(relative(out, expected) < TINY and relative(out, base) > 1e-3, style)
        if style != "peft":
            inputs = {"model": model, "lora_name": name, "strength_model": 1.0}
            stock = stage.call("LoraLoaderModelOnly", **inputs)[0]
            expect(relative(stage.ksampler(stock, **given), expected) < TINY, style)
    expect(torch.equal(stage.ksampler(model, **given), base), "the base model changed")


def check_patches_reach_class_models(stage: Stage) -> None:
    given = {"latent_image": empty(stage)}
    for variety, blocks, calls in (("class", 2, 4), ("none", 2, 4), ("parallel", 3, 6)):
        model = load(stage, variety)
        conds = {**given, **given_for(stage, variety)}
        base = stage.ksampler(model, steps=1, **conds)
        kinds: list[tuple[str, int]] = []
        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = noting(kinds)
        expect(torch.equal(stage.ksampler(patched, steps=1, **conds), base), variety)
        expect(len(kinds) == calls and {index for _, index in kinds} == set(range(blocks)), kinds)
        seen: list[Any] = []
        plain = model.clone()
        plain.set_model_patch_replace(passing(seen), "dit", "double_block", 1)
        expect(torch.equal(stage.ksampler(plain, steps=1, **conds), base), "identity replacement")
        expect(len(seen) == 1, variety)
        louder = model.clone()
        louder.set_model_attn1_output_patch(lambda out, told: out.mul_(1.5))
        expect(relative(stage.ksampler(louder, steps=1, **conds), base) > 1e-4, variety)


def noting(kinds: list[tuple[str, int]]) -> Callable[..., torch.Tensor]:
    """Return an attention override that only notes who calls."""

    def override(fn: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        told = kwargs["transformer_options"]
        kinds.append((told["block_type"], told["block_index"]))
        return fn(*args, **kwargs)

    return override


def passing(seen: list[Any]) -> Callable[..., dict[str, Any]]:
    """Return a block replacement that runs the block."""

    def run_it(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(tuple(args["img"].shape))
        return extra["original_block"](args)

    return run_it


def check_class_models_can_be_copied_for_other_devices(stage: Stage) -> None:
    model = load(stage)
    factory, arguments = model.cached_patcher_init[:2]
    again = factory(*arguments, disable_dynamic=True)
    for name, value in model.model.state_dict().items():
        expect(torch.equal(again.model.state_dict()[name], value), name)


def check_the_class_starter_is_offered_where_it_is(stage: Stage) -> None:
    paths = stage.part("nodes.host.base.paths")
    before = paths.CLASS_STARTER_FOLDER
    folder = Path(folder_paths.get_output_directory())
    try:
        paths.CLASS_STARTER_FOLDER = folder / "no_class_starter"
        expect(paths.options("diffusion_models")[1:2] != ["class-starter"])
        expect_error(
            "InvalidInputError",
            ["class", "Install the pack again"],
            lambda: paths.locate("class-starter", "diffusion_models", "model_name"),
        )
        paths.CLASS_STARTER_FOLDER = write_folder(stage, folder / "class_starter")
        expect(paths.options("diffusion_models")[:2] == ["starter", "class-starter"])
        expect("class-starter" not in paths.options("vae") + paths.options("text_encoders"))
        widget = stage.own["LatteClassLabel"].INPUT_TYPES()["required"]["class_name"]
        expect(set(NAMES) < set(widget[0]) and widget[1]["default"] == NAMES[0], widget)
        expect(widget[0][62] == "Playing Guitar", widget[0][62])
        given = {"model_name": "class-starter", "weight_dtype": "fp32"}
        model = stage.call("LatteModelLoader", **given)[0]
        samples = stage.latte_sampler(
            model, latent_image=empty(stage), **label(stage, "Blue_Square")
        )
        vae = stage.call("LatteVAELoader", vae_name="starter", kind="auto")[0]
        decoded = stage.call(
            "LatteVAEDecode", samples={"samples": samples}, vae=vae, chunk_frames=0
        )[0]
        expect(decoded.shape == (3, 64, 64, 3), decoded.shape)
    finally:
        paths.CLASS_STARTER_FOLDER = before


def check_unconditional_models_run_in_ksampler(stage: Stage) -> None:
    model = load(stage, "none")
    given = {**nothing(stage), "latent_image": empty(stage)}
    plain = stage.ksampler(model, cfg=1.0, **given)
    for name in ("euler", "dpmpp_2m"):
        out = stage.ksampler(model, sampler_name=name, **given)
        expect(out.shape == (3, 4, 8, 8) and bool(out.isfinite().all()), name)
    expect(relative(stage.ksampler(model, **given), plain) < TINY, "guidance changes nothing")
