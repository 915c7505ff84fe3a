"""Checks that eight-bit models of this pack work in ComfyUI: its loaders, samplers and LoRAs."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from acceleration import notes
from host import STARTER, Stage, expect, expect_error, relative
from lora import starter as core_starter
from lora import write_file as write_lora
from tiny import frames, given_for, load

# Of three Euler steps on the starter, largest difference over largest value. On the CPU, ComfyUI
# rounds activations for int8 only: fp8 weights are unpacked there.
BOUNDS = {"int8": 0.35, "fp8": 0.2}  # int8: 0.16 to 0.51 over eight seeds, decided by rounding


def formats() -> list[str]:
    """Return the formats that this ComfyUI has layers for."""
    from comfy import quant_ops

    known = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}
    return [name for name, stored in known.items() if stored in quant_ops.QUANT_ALGOS]


def quantised(stage: Stage, name: str, model: Any = None) -> Any:
    """Return a model behind Latte Precision."""
    return stage.call("LattePrecision", model=model or stage.model, precision=name)[0]


def layer_of(model: Any) -> Any:
    """Return one of the layers that are quantised."""
    return model.model.diffusion_model.transformer_blocks[0].attn1.to_q


def check_precision_is_close_and_repeats_its_bits(stage: Stage) -> str:
    exact, found = stage.ksampler(), {}
    for name in formats():
        model = quantised(stage, name)
        expect(layer_of(model).quant_format in ("float8_e4m3fn", "int8_tensorwise"), name)
        out = stage.ksampler(model)
        expect(torch.equal(stage.ksampler(model), out), name, "two runs differ")
        found[name] = relative(out, exact)
        expect(0 < found[name] < BOUNDS[name], found)
    expect(torch.equal(stage.ksampler(), exact), "the model before the node changed")
    return str(found)


def check_precision_works_with_latte_sampler(stage: Stage) -> None:
    exact = stage.latte_sampler()
    for name in formats():
        model = quantised(stage, name)
        out = stage.latte_sampler(model)
        expect(0 < relative(out, exact) < BOUNDS[name], name, relative(out, exact))
        expect(torch.equal(stage.latte_sampler(model), out), name)


def check_precision_works_with_loras_before_and_behind(stage: Stage) -> str:
    write_lora(stage, "precise.safetensors", core_starter(stage), blocks="both")
    given = {"lora_name": "precise.safetensors", "strength": 0.7}
    patched = stage.call("LatteLoraLoader", model=stage.model, **given)[0]
    exact, plain, errors = stage.ksampler(patched), stage.ksampler(), []
    for name in formats():
        small = quantised(stage, name)
        without = stage.ksampler(small)
        before = stage.ksampler(quantised(stage, name, patched))
        behind = stage.ksampler(stage.call("LatteLoraLoader", model=small, **given)[0])
        effect = relative(plain, exact)
        for out in (before, behind):
            errors.append(relative(out, exact) / effect)
            expect(errors[-1] < 0.6, name, errors)
        expect(torch.equal(stage.ksampler(small), without), name, "the LoRA stayed")
    expect(torch.equal(stage.ksampler(patched), exact), "the patched model changed")
    return str(errors)


def check_precision_keeps_what_other_nodes_put_on_a_model(stage: Stage) -> None:
    fast = stage.call("LatteAccelerate", model=stage.model, mode="fast")[0]
    for name in formats():
        both = quantised(stage, name, fast)
        kept = both.model_options["transformer_options"].get("wrappers", {}), both.wrappers
        expect("latte_accelerate" in str(kept), kept)
        away = relative(stage.ksampler(both), stage.ksampler(fast))
        # skipped steps go on with the rounding of those before them
        expect(0 < away < 1.5 * BOUNDS[name], name, away)


def check_precision_works_with_class_models(stage: Stage) -> None:
    for variety in ("class", "two_attentions"):
        model = load(stage, variety)
        given = {**given_for(stage, variety), "latent_image": frames(stage)}
        exact = stage.ksampler(model, **given)
        for name in formats():
            out = stage.ksampler(quantised(stage, name, model), **given)
            expect(0 < relative(out, exact) < BOUNDS[name], variety, name, relative(out, exact))


def check_converted_files_open_in_the_stock_loader(stage: Stage) -> str:
    convert = stage.part("latte_core.checkpoint.conversion.convert").convert
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    exact, found = stage.ksampler(), {}
    for name in formats():
        file = target / f"converted_{name}.safetensors"
        with torch.inference_mode(mode=False):
            convert(STARTER / "transformer", file, quantize=name)
        model = stage.call("UNETLoader", unet_name=file.name, weight_dtype="default")[0]
        own = stage.call("LatteModelLoader", model_name=file.name, weight_dtype="default")[0]
        expect(hasattr(layer_of(model), "quant_format"), name)
        out = stage.ksampler(model)
        expect(torch.equal(out, stage.ksampler(own)), name)
        expect(torch.equal(out, stage.ksampler(quantised(stage, name))), name)
        found[name] = relative(out, exact)
        expect(0 < found[name] < BOUNDS[name], found)
    return str(found)


def check_precision_says_what_is_missing(stage: Stage) -> str:
    said = [
        expect_error(
            "InvalidInputError",
            ["NVIDIA", "model is on cpu"],
            lambda: quantised(stage, "fp16-acc"),
        )
    ]
    small = quantised(stage, formats()[0])
    for name in formats():
        words = ["quantised already"]
        again = partial(quantised, stage, name, small)
        said.append(expect_error("IncompatibleInputsError", words, again))
    for name in {"fp8", "int8"} - set(formats()):
        words = ["no layers for", "float8_e4m3fn", "Update ComfyUI"]
        missing = partial(quantised, stage, name)
        said.append(expect_error("IncompatibleInputsError", words, missing))
    expect_error("InvalidInputError", ["precision"], lambda: quantised(stage, "int4"))
    return said[-1]


def check_precision_says_once_that_fp8_saves_memory_only(stage: Stage) -> None:
    with notes() as heard:
        stage.ksampler(quantised(stage, "fp8"))
    told = [text for text in heard.texts if "saves memory here, but no time" in text]
    expect(len(told) == 1, heard.texts)


def check_precision_says_how_layers_multiply(stage: Stage) -> None:
    native = stage.part("latte_core.precision.matmul").has_product
    kinds = stage.part("latte_core.precision.formats").FORMATS
    for name in formats():
        with notes() as heard:
            small = quantised(stage, name)
        layers = [one for one in small.model.modules() if getattr(one, "layout_type", None)]
        multiplied = len(layers) if native(kinds[name], torch.device("cpu")) else 0
        said = f"multiply {multiplied} of them in eight bits and unpack {len(layers) - multiplied}."
        expect(layers and any(text.endswith(said) for text in heard.texts), name, heard.texts)


def check_sums_in_float16_last_for_a_run(stage: Stage) -> None:
    part = stage.part("nodes.host.run.precision")
    switches, seen = torch.backends.cuda.matmul, []

    def run(*_: Any, **__: Any) -> str:
        seen.append(switches.allow_fp16_accumulation)
        return "done"

    expect(part.sum_in_float16(run, 1, two=2) == "done" and seen == [True], seen)
    expect(not switches.allow_fp16_accumulation)


def check_precision_off_gives_the_same_bits(stage: Stage) -> None:
    expect(torch.equal(stage.ksampler(quantised(stage, "off")), stage.ksampler()))


def gguf_loader() -> Any:
    """Return ComfyUI-GGUF's loader node from the folder that COMFYUI_GGUF_PATH names, or None."""
    given = os.environ.get("COMFYUI_GGUF_PATH")
    folder = Path(given or "")
    if not given or not (folder / "nodes.py").is_file() or not importlib.util.find_spec("gguf"):
        return None
    name = "comfyui_gguf"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]


def check_gguf_files_open_in_their_loader(stage: Stage) -> str:
    loader = gguf_loader()
    if loader is None:
        return "skipped: COMFYUI_GGUF_PATH names no ComfyUI-GGUF, or the package gguf is missing"
    convert = stage.part("latte_core.checkpoint.conversion.convert").convert
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    exact, found = stage.ksampler(), {}
    for kind, bound in (("Q8_0", 0.1), ("Q5_1", 0.3), ("F16", 1e-5)):  # stored in float16
        file = target / f"starter_{kind}.gguf"
        with torch.inference_mode(mode=False):
            convert(STARTER / "transformer", file, quantize=kind)
        model = loader().load_unet(file.name)[0]
        out = stage.ksampler(model)
        expect(torch.equal(stage.ksampler(model), out), kind, "two runs differ")
        found[kind] = relative(out, exact)
        expect(found[kind] < bound and (kind == "F16" or found[kind] > 0), found)
    exact_class = load(stage)
    class_file = target / "class.gguf"
    with torch.inference_mode(mode=False):
        convert(target / "tiny_class.safetensors", class_file, quantize="Q8_0")
    model = loader().load_unet(class_file.name)[0]
    given = {**given_for(stage, "class"), "latent_image": frames(stage)}
    error = relative(stage.ksampler(model, **given), stage.ksampler(exact_class, **given))
    expect(error < 0.05, error)
    return str(found)
