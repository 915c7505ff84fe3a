"""Checks that ComfyUI's own nodes do their work on our MODEL."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from host import STARTER, Stage, expect, expect_error, relative

BLOCKS = ("transformer_blocks", "temporal_transformer_blocks")


def lora_layers(stage: Stage, kinds: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return (up, down) of rank 2 for the query layer of two blocks of each kind."""
    weights = stage.model.model.diffusion_model.state_dict()
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for kind in kinds:
        for index in (0, 2):
            name = f"{kind}.{index}.attn1.to_q"
            rows, columns = weights[f"{name}.weight"].shape
            up = torch.randn(rows, 2, generator=generator)
            layers[name] = (up, torch.randn(2, columns, generator=generator) * 0.2)
    return layers


def write_lora(stage: Stage, style: str, kinds: tuple[str, ...] = BLOCKS) -> str:
    """Write a LoRA file in one of the styles of the field and return its name."""
    import folder_paths
    import safetensors.torch

    tensors = {}
    for name, (up, down) in lora_layers(stage, kinds).items():
        if style == "native":
            tensors[f"diffusion_model.{name}.lora_B.weight"] = up
            tensors[f"diffusion_model.{name}.lora_A.weight"] = down
        elif style == "peft":
            tensors[f"transformer.{name}.lora_B.weight"] = up
            tensors[f"transformer.{name}.lora_A.weight"] = down
        elif style == "peft_raw":
            tensors[f"base_model.model.{name}.lora_B.default.weight"] = up
            tensors[f"base_model.model.{name}.lora_A.default.weight"] = down
        else:
            flat = name.replace(".", "_")
            tensors[f"lora_unet_{flat}.lora_up.weight"] = up
            tensors[f"lora_unet_{flat}.lora_down.weight"] = down
            tensors[f"lora_unet_{flat}.alpha"] = torch.tensor(2.0)
    file = f"{style}_{len(kinds)}_{kinds[0]}.safetensors"
    target = Path(folder_paths.get_folder_paths("loras")[0]) / file
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, target)
    return file


def check_stock_lora_loader_takes_native_and_peft_files(stage: Stage) -> None:
    base = stage.ksampler()
    seen: dict[str, torch.Tensor] = {}
    for style in ("native", "peft", "peft_raw", "kohya"):
        for kinds in (BLOCKS, BLOCKS[1:]):
            model = stage.call(
                "LoraLoaderModelOnly",
                model=stage.model,
                lora_name=write_lora(stage, style, kinds),
                strength_model=1.0,
            )[0]
            out = stage.ksampler(model)
            expect(relative(out, base) > 1e-3, style, kinds)
            same = seen.setdefault(kinds[0], out)
            expect(relative(out, same) < 1e-6, style, kinds)
    expect(torch.equal(stage.ksampler(), base), "the base model changed")


def check_latte_lora_loader_takes_every_style(stage: Stage) -> None:
    base = stage.ksampler()
    expected = None
    for style in ("native", "peft", "peft_raw", "kohya"):
        file = write_lora(stage, style)
        patched, report = stage.call(
            "LatteLoraLoader", model=stage.model, lora_name=file, strength=1.0
        )
        expect("4 layers" in report, report)
        out = stage.ksampler(patched)
        expected = out if expected is None else expected
        expect(relative(out, expected) < 1e-6 and relative(out, base) > 1e-3, style)
        off = stage.call("LatteLoraLoader", model=stage.model, lora_name=file, strength=0.0)[0]
        expect(torch.equal(stage.ksampler(off), base), "strength 0")
    spatial = write_lora(stage, "peft", BLOCKS[:1])
    report = stage.call("LatteLoraLoader", model=stage.model, lora_name=spatial, strength=1.0)[1]
    expect("spatial layers only" in report, report)


def check_lora_without_a_match_is_an_error(stage: Stage) -> None:
    import folder_paths
    import safetensors.torch

    tensors = {
        "lora_unet_down_blocks_0_attentions_0.lora_up.weight": torch.zeros(4, 2),
        "lora_unet_down_blocks_0_attentions_0.lora_down.weight": torch.zeros(2, 4),
    }
    target = Path(folder_paths.get_folder_paths("loras")[0]) / "other.safetensors"
    safetensors.torch.save_file(tensors, target)
    expect_error(
        "UnknownArchitectureError",
        ["other.safetensors", "no layer"],
        lambda: stage.call(
            "LatteLoraLoader", model=stage.model, lora_name=target.name, strength=1.0
        ),
    )


def check_merging_two_models(stage: Stage) -> None:
    base = stage.ksampler()
    lora = stage.call(
        "LoraLoaderModelOnly",
        model=stage.model,
        lora_name=write_lora(stage, "native"),
        strength_model=1.0,
    )[0]
    merged = stage.call("ModelMergeSimple", model1=stage.model, model2=lora, ratio=0.5)[0]
    expect(bool(stage.ksampler(merged).isfinite().all()))
    itself = stage.call("ModelMergeSimple", model1=stage.model, model2=stage.model, ratio=0.5)[0]
    expect(relative(stage.ksampler(itself), base) < 1e-3)


def saved_file(stage: Stage, folder: str) -> str:
    """Save the model with ModelSave and put the file into a folder of models."""
    import folder_paths

    output = Path(folder_paths.get_output_directory())
    for old in output.glob("saved*"):
        old.unlink()
    stage.call("ModelSave", model=stage.model, filename_prefix="saved")
    (file,) = output.glob("saved*")
    target = Path(folder_paths.get_folder_paths(folder)[0]) / f"saved_{folder}.safetensors"
    shutil.move(file, target)
    return target.name


def check_saved_models_open_again(stage: Stage) -> None:
    base = stage.ksampler()
    unet = stage.call(
        "UNETLoader",
        unet_name=saved_file(stage, "diffusion_models"),
        weight_dtype="default",
    )[0]
    expect(type(unet.model).__name__ == "LatteVideo", type(unet.model))
    expect(relative(stage.ksampler(unet), base) < 1e-5, "Load Diffusion Model")
    ours = stage.call(
        "LatteModelLoader", model_name="saved_diffusion_models.safetensors", weight_dtype="fp32"
    )[0]
    expect(torch.equal(stage.ksampler(ours), base), "Latte Model Loader")
    loaded = stage.call("CheckpointLoaderSimple", ckpt_name=saved_file(stage, "checkpoints"))
    expect(relative(stage.ksampler(loaded[0]), base) < 1e-5, "CheckpointLoaderSimple")


def check_the_starter_file_opens_in_load_diffusion_model(stage: Stage) -> None:
    import folder_paths

    target = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "plain.safetensors"
    shutil.copyfile(STARTER / "transformer" / "diffusion_pytorch_model.safetensors", target)
    model = stage.call("UNETLoader", unet_name=target.name, weight_dtype="default")[0]
    expect(type(model.model).__name__ == "LatteVideo", type(model.model))
    expect(relative(stage.ksampler(model), stage.ksampler()) < 1e-5)


def check_diffusers_folder_opens_in_our_loaders(stage: Stage) -> None:
    import folder_paths

    folder = Path(folder_paths.get_folder_paths("diffusers")[0]) / "Latte-tiny"
    shutil.copytree(STARTER, folder, dirs_exist_ok=True)
    model = stage.call("LatteModelLoader", model_name="Latte-tiny/", weight_dtype="fp32")[0]
    expect(torch.equal(stage.ksampler(model), stage.ksampler()))
    clip = stage.call("LatteTextEncoderLoader", encoder_name="Latte-tiny/", device="cpu")[0]
    text = stage.call("CLIPTextEncode", clip=clip, text="red")[0][0][0]
    expect(torch.equal(text, stage.call("CLIPTextEncode", clip=stage.clip, text="red")[0][0][0]))
    vae = stage.call("LatteVAELoader", vae_name="Latte-tiny/", kind="image")[0]
    expect(vae.latent_channels == 4)


def check_dtypes(stage: Stage) -> None:
    # The first step leaves noise 157 times as large as the clip, and so magnifies all rounding:
    # only a run of the usual length says what a number format costs. fp8_e5m2 keeps two bits of
    # each number: its clip need only be nearer than another clip is, which is 1.4 away.
    base = stage.ksampler(steps=20)
    limits = {"bf16": 0.05, "fp16": 0.02, "fp8_e4m3fn": 0.4, "fp8_e5m2": 1.0}
    for dtype, limit in limits.items():
        model = stage.call("LatteModelLoader", model_name="starter", weight_dtype=dtype)[0]
        inner = model.model.diffusion_model
        stored = inner.transformer_blocks[0].attn1.to_q.weight.dtype
        expect(dtype[:3] in str(stored).replace("float", "fp").replace("bfp", "bf"), stored)
        expect(inner.scale_shift_table.dtype == torch.float32)
        error = relative(stage.ksampler(model, steps=20), base)
        expect(error < limit, dtype, error)


def check_fp8_in_load_diffusion_model(stage: Stage) -> None:
    check_the_starter_file_opens_in_load_diffusion_model(stage)
    model = stage.call("UNETLoader", unet_name="plain.safetensors", weight_dtype="fp8_e4m3fn")[0]
    stored = model.model.diffusion_model.transformer_blocks[0].attn1.to_q.weight.dtype
    expect(stored == torch.float8_e4m3fn, stored)
    expect(bool(stage.ksampler(model).isfinite().all()))


def check_easy_cache_on_both_layouts(stage: Stage) -> None:
    inputs = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    cached = stage.call("EasyCache", model=stage.model, **inputs)[0]
    for shape in ((4, 4, 8, 8), (1, 4, 4, 8, 8)):
        latent = {"samples": torch.zeros(shape)}
        out = stage.ksampler(cached, steps=8, latent_image=latent)
        base = stage.ksampler(steps=8, latent_image=latent)
        expect(out.shape == shape and bool(out.isfinite().all()), shape)
        expect(relative(out, base) > 0, "nothing was skipped")


def check_context_windows(stage: Stage) -> None:
    inputs = {
        "context_length": 4,
        "context_overlap": 2,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 0,
    }
    extra = {"freenoise": False}
    schema = stage.stock["ContextWindowsManual"].define_schema()
    known = {item.id for item in schema.inputs}
    extra.update({"cond_retain_index_list": "", "split_conds_to_windows": False})
    given = {k: v for k, v in {**inputs, **extra}.items() if k in known}
    windows = stage.call("ContextWindowsManual", model=stage.model, **given)[0]
    latent = stage.latent(frames=10)
    calls: list[int] = []
    record_frames(windows, calls)
    out = stage.ksampler(windows, latent_image=latent)
    expect(out.shape[0] == 10 and bool(out.isfinite().all()))
    expect(calls and max(calls) <= 5 * 2, calls)
    long = stage.call("ContextWindowsManual", model=stage.model, **{**given, "dim": 2})[0]
    video = {"samples": torch.zeros(1, 4, 10, 8, 8)}
    expect(bool(stage.ksampler(long, latent_image=video).isfinite().all()))


def record_frames(model: Any, calls: list[int]) -> None:
    """Note the batch size of every call of the diffusion model."""
    import comfy.patcher_extension

    def wrapper(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(x.shape[0])
        return executor(x, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "test", wrapper)


def check_wrappers_get_transformer_options_last(stage: Stage) -> None:
    import comfy.patcher_extension

    model = stage.model.clone()
    seen: list[Any] = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(args[-1])
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    expect(torch.equal(stage.ksampler(model), stage.ksampler()))
    expect(len(seen) == 3 and all("sigmas" in options for options in seen))


def check_attention_override_sees_every_call(stage: Stage) -> None:
    model = stage.model.clone()
    kinds: list[tuple[str, int]] = []

    def override(fn: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        told = kwargs["transformer_options"]
        kinds.append((told["block_type"], told["block_index"]))
        return fn(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    base = stage.ksampler(steps=1)
    kinds.clear()
    # attention across frames is in the host's layout then, and rounds differently
    error = relative(stage.ksampler(model, steps=1), base)
    expect(error < 1e-4, error)
    layers = stage.model.model.diffusion_model.config.num_layers
    expect(len(kinds) == 3 * layers, len(kinds))
    expect({kind for kind, _ in kinds} == {"spatial", "cross", "temporal"})


def check_skip_layer_guidance(stage: Stage) -> None:

    inputs = {
        "double_layers": "1",
        "single_layers": "",
        "scale": 2.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "rescaling_scale": 0.0,
    }
    guided = stage.call("SkipLayerGuidanceDiT", model=stage.model, **inputs)[0]
    expect(relative(stage.ksampler(guided), stage.ksampler()) > 1e-4)
    seen: list[tuple[int, ...]] = []

    def run_it(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(tuple(args["img"].shape))
        return extra["original_block"](args)

    plain = stage.model.clone()
    plain.set_model_patch_replace(run_it, "dit", "double_block", 1)
    # a replacement is given a row of modulation for each video, which rounds differently
    error = relative(stage.ksampler(plain), stage.ksampler())
    expect(error < 1e-4, "identity replacement", error)
    expect(len(seen) == 3 and seen[0] == (2, 4 * 16, 160), seen)


def check_attention_output_patches(stage: Stage) -> None:
    model = stage.model.clone()
    seen: list[dict[str, Any]] = []

    def patch(out: torch.Tensor, told: dict[str, Any]) -> torch.Tensor:
        seen.append(told)
        return out.mul_(1.5)

    model.set_model_attn1_output_patch(patch)
    expect(relative(stage.ksampler(model), stage.ksampler()) > 1e-4)
    expect({"block_index", "n_heads", "cond_or_uncond"} <= set(seen[0]))
    if "NAGuidance" in stage.stock:
        given = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}
        guided = stage.call("NAGuidance", model=stage.model, **given)[0]
        expect(relative(stage.ksampler(guided), stage.ksampler()) > 1e-4, "NAG")


def check_latents_resize_and_split(stage: Stage) -> None:
    out = {"samples": stage.ksampler()}
    larger = stage.call("LatentUpscaleBy", samples=out, upscale_method="bilinear", scale_by=2.0)[0]
    again = stage.ksampler(latent_image=larger, denoise=0.5)
    expect(again.shape == (4, 4, 16, 16), again.shape)
    frames = stage.call("VAEDecode", vae=stage.vae, samples={"samples": again})[0]
    expect(frames.shape == (4, 128, 128, 3), frames.shape)
    one = stage.call("LatentFromBatch", samples=out, batch_index=2, length=1)[0]
    expect(stage.ksampler(latent_image=one).shape == (1, 4, 8, 8))
    image = stage.call("EmptyLatentImage", width=64, height=64, batch_size=4)[0]
    expect(torch.equal(stage.ksampler(latent_image=image), stage.ksampler()))
    other = {"samples": torch.zeros(4, 16, 8, 8)}
    expect(torch.equal(stage.ksampler(latent_image=other), stage.ksampler()))
    expect(stage.latte_sampler(latent_image=other).shape == (4, 4, 8, 8))


def check_conditioning_nodes(stage: Stage) -> None:
    base = stage.ksampler()
    second = stage.prompts("a yellow circle moving left")[0]
    pair = {"conditioning_1": stage.positive, "conditioning_2": second}
    combined = stage.call("ConditioningCombine", **pair)[0]
    expect(relative(stage.ksampler(positive=combined), base) > 1e-5)
    joined = stage.call(
        "ConditioningConcat", conditioning_to=stage.positive, conditioning_from=second
    )[0]
    expect(relative(stage.ksampler(positive=joined), base) > 1e-5)
    travel = [[second[0][0].repeat(4, 1, 1), {}]]
    expect(bool(stage.ksampler(positive=travel).isfinite().all()))
    longer = stage.prompts("up " * 60)[0]
    expect(bool(stage.ksampler(positive=longer).isfinite().all()), "60 tokens against 2")


def check_generic_guidance_nodes(stage: Stage) -> None:
    base = stage.ksampler()
    nodes = {"RescaleCFG": {"multiplier": 0.7}, "Mahiro": {}, "CFGZeroStar": {}}
    nodes["TCFG"] = {}
    for node, inputs in nodes.items():
        if node in stage.stock:
            model = stage.call(node, model=stage.model, **inputs)[0]
            out = stage.ksampler(model)
            expect(bool(out.isfinite().all()) and relative(out, base) > 0, node)


def check_compiled_by_the_eager_backend(stage: Stage) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = stage.model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    expect(relative(stage.ksampler(model), stage.ksampler()) < 1e-5)


def check_compiled_by_inductor(stage: Stage) -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "skipped: no C++ compiler"
    model = stage.call("TorchCompileModel", model=stage.model, backend="inductor")[0]
    latent = stage.latent(frames=2, height=16, width=16)
    error = relative(
        stage.ksampler(model, latent_image=latent), stage.ksampler(latent_image=latent)
    )
    expect(error < 1e-4, error)
    return f"inductor, {error:.1e}"


def check_copies_for_other_devices_can_be_made(stage: Stage) -> None:
    for patcher in (stage.model, stage.clip.patcher, stage.vae.patcher):
        factory, arguments = patcher.cached_patcher_init[:2]
        again = factory(*arguments, disable_dynamic=True)
        expect(type(again.model) is type(patcher.model) or again.model is not patcher.model)
        for name, value in patcher.model.state_dict().items():
            expect(torch.equal(again.model.state_dict()[name], value), name)


def check_a_released_file_needs_no_config(stage: Stage) -> str:
    """One layer of Latte-1's width, without metadata, in the stock loader."""
    import folder_paths
    import safetensors.torch

    config = stage.part("latte_core.config.t2v").LatteT2VConfig(num_layers=1)
    source = stage.part("latte_core.model.t2v.transformer").LatteT2V(config, dtype=torch.float16)
    weights = {name: value.half() for name, value in source.state_dict().items()}
    weights["caption_projection.y_embedding"] = torch.zeros(120, 4096, dtype=torch.float16)
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    safetensors.torch.save_file(weights, folder / "released.safetensors")
    load = {"unet_name": "released.safetensors", "weight_dtype": "default"}
    model = stage.call("UNETLoader", **load)[0]
    inner = model.model.diffusion_model
    expect(inner.config == config, inner.config)
    expect("latte_config" not in "".join(model.model.model_config.unet_config))
    saved = model.model.model_config.process_unet_state_dict_for_saving(inner.state_dict())
    expect(len(saved) == len(weights) - 1, "ModelSave adds nothing to a released model")
    registration = stage.part("nodes.host.model.registration")
    registration.unregister()
    try:
        found = type(stage.call("UNETLoader", **load)[0].model).__name__
    except (RuntimeError, AttributeError, KeyError) as error:
        found = type(error).__name__
    finally:
        registration.register()
    return f"without registration: {found}"


def check_a_training_checkpoint_opens_in_our_loader(stage: Stage) -> None:
    import folder_paths

    weights = {f"module.{k}": v for k, v in stage.model.model.diffusion_model.state_dict().items()}
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    torch.save({"ema": weights, "model": {}}, folder / "t2v.pt")
    shutil.copyfile(STARTER / "transformer" / "config.json", folder / "config.json")
    try:
        model = stage.call("LatteModelLoader", model_name="t2v.pt", weight_dtype="fp32")[0]
    finally:
        (folder / "config.json").unlink()
    expect(relative(stage.ksampler(model), stage.ksampler()) < 1e-5)
