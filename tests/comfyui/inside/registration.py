"""Checks that registration is polite: once, reversible, and harmless when something is odd."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from host import PACK, STARTER, Stage, expect, expect_error

OURS = ("LatteConfig", "LatteClassConfig")


def names_in_list() -> list[str]:
    """Return the class names in ComfyUI's list of models."""
    import comfy.supported_models

    return [candidate.__name__ for candidate in comfy.supported_models.models]


def import_again(name: str) -> Any:
    """Import the pack once more under another name, as after a reload."""
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check_registering_twice_changes_nothing(stage: Stage) -> None:
    import comfy.model_detection

    registration = stage.part("nodes.host.model.registration")
    before = comfy.model_detection.detect_unet_config
    expect([names_in_list().count(name) for name in OURS] == [1, 1])
    registration.register()
    import_again("latte_second_copy")
    expect([names_in_list().count(name) for name in OURS] == [1, 1])
    now = comfy.model_detection.detect_unet_config
    expect(now.__wrapped__ is before.__wrapped__, "wrappers are stacked")
    for module, function, _ in registration.wrapped_functions():
        expect(not registration.is_our_wrapper(getattr(module, function).__wrapped__), function)
    registration.register()


def check_unregistering_restores_comfyui(stage: Stage) -> None:

    registration = stage.part("nodes.host.model.registration")
    registration.unregister()
    try:
        expect(not set(OURS) & set(names_in_list()))
        for module, function, _ in registration.wrapped_functions():
            expect(not registration.wrapped_by_us(getattr(module, function)), function)
        model = stage.call("LatteModelLoader", model_name="starter", weight_dtype="fp32")[0]
        found = stage.ksampler(model)
    finally:
        registration.register()
    expect(torch.equal(found, stage.ksampler()), "our loader must not need the registration")


def check_a_foreign_wrapper_on_top_survives(stage: Stage) -> None:
    import comfy.model_detection as detection

    registration = stage.part("nodes.host.model.registration")
    ours = detection.detect_unet_config

    @functools.wraps(ours)
    def foreign(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    detection.detect_unet_config = foreign
    try:
        registration.register()
        expect(detection.detect_unet_config is foreign, "register replaced another pack's wrapper")
        registration.unregister()
        expect(detection.detect_unet_config is foreign, "unregister removed it")
        registration.register()
    finally:
        detection.detect_unet_config = ours
    expect(registration.is_our_wrapper(detection.detect_unet_config))


def check_comfyuis_own_latte_wins(stage: Stage) -> None:
    import comfy.supported_models

    registration = stage.part("nodes.host.model.registration")
    registration.unregister()
    theirs = type("Latte", (), {"__module__": "comfy.supported_models"})
    comfy.supported_models.models.append(theirs)
    try:
        expect(registration.register() is False)
        expect(not set(OURS) & set(names_in_list()))
    finally:
        comfy.supported_models.models.remove(theirs)
        registration.register()


def check_the_switch_turns_it_off(stage: Stage) -> None:
    registration = stage.part("nodes.host.model.registration")
    registration.unregister()
    os.environ["LATTE_NO_REGISTER"] = "1"
    try:
        registration.register_at_import()
        expect(not set(OURS) & set(names_in_list()))
    finally:
        del os.environ["LATTE_NO_REGISTER"]
        registration.register()


def check_a_failure_leaves_comfyui_as_it_was(stage: Stage) -> None:
    import comfy.lora
    import comfy.model_detection

    registration = stage.part("nodes.host.model.registration")
    registration.unregister()
    saved = comfy.lora.load_lora
    del comfy.lora.load_lora
    logging.disable(logging.CRITICAL)
    try:
        registration.register_at_import()
        expect(not set(OURS) & set(names_in_list()))
        expect(not registration.wrapped_by_us(comfy.model_detection.detect_unet_config))
    finally:
        logging.disable(logging.NOTSET)
        comfy.lora.load_lora = saved
        registration.register()


def check_without_us_comfyui_takes_latte_for_something_else(stage: Stage) -> str:
    import folder_paths

    registration = stage.part("nodes.host.model.registration")
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "stock.safetensors"
    shutil.copyfile(STARTER / "transformer" / "diffusion_pytorch_model.safetensors", target)
    registration.unregister()
    try:
        model = stage.call("UNETLoader", unet_name=target.name, weight_dtype="default")[0]
        found = type(model.model).__name__
    except (RuntimeError, AttributeError, KeyError) as error:
        found = type(error).__name__
    finally:
        registration.register()
    expect(found != "LatteVideo", found)
    return found


def check_other_models_are_detected_as_before(stage: Stage) -> None:
    import comfy.model_detection as detection

    weights = {
        "joint_blocks.0.context_block.attn.qkv.weight": torch.zeros(1536 * 3, 1536),
        "x_embedder.proj.weight": torch.zeros(1536, 16, 2, 2),
        "final_layer.linear.weight": torch.zeros(64, 1536),
    }
    original = detection.detect_unet_config.__wrapped__
    expect(detection.detect_unet_config(weights, "") == original(weights, ""))


def check_only_names_and_first_dimensions_are_read(stage: Stage) -> None:
    import safetensors.torch

    class Lazy:
        """A weight of which nothing but the first dimension is known."""

        def __init__(self, rows: int) -> None:
            self.shape = FirstOnly(rows)

    class FirstOnly:
        """A shape that refuses to tell more than its first number."""

        def __init__(self, rows: int) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            expect(index == 0, f"dimension {index} was read")
            return self.rows

    weights = safetensors.torch.load_file(
        STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    lazy = {name: Lazy(value.shape[0]) for name, value in weights.items()}
    found = stage.part("nodes.host.base.detection").detect(
        lazy, "", {"config": (STARTER / "transformer" / "config.json").read_text()}
    )
    expect(found["num_layers"] == 4 and found["attention_head_dim"] == 32, found)


def check_incomplete_files_are_refused_by_stock_loaders(stage: Stage) -> None:
    import folder_paths
    import safetensors.torch

    source = STARTER / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(source)
    del weights["transformer_blocks.1.ff.net.2.bias"]
    target = Path(folder_paths.get_folder_paths("diffusion_models")[0]) / "cut.safetensors"
    config = (STARTER / "transformer" / "config.json").read_text()
    safetensors.torch.save_file(weights, target, {"config": config})
    for node in ("UNETLoader", "LatteModelLoader"):
        key = "unet_name" if node == "UNETLoader" else "model_name"
        expect_error(
            "WeightMismatchError",
            ["transformer_blocks.1.ff.net.2.bias"],
            functools.partial(stage.call, node, **{key: target.name, "weight_dtype": "default"}),
        )


SYMBOLS = (
    "comfy.supported_models.models",
    "comfy.supported_models_base.BASE",
    "comfy.supported_models_base.ClipTarget",
    "comfy.model_base.BaseModel",
    "comfy.model_base.ModelType",
    "comfy.model_detection.detect_unet_config",
    "comfy.latent_formats.SD15",
    "comfy.conds.CONDCrossAttn",
    "comfy.conds.CONDRegular",
    "comfy.patcher_extension.WrapperExecutor",
    "comfy.patcher_extension.WrappersMP",
    "comfy.patcher_extension.get_all_wrappers",
    "comfy.ldm.modules.attention.optimized_attention",
    "comfy.ldm.common_dit.pad_to_patch_size",
    "comfy.ldm.models.autoencoder.AutoencodingEngine",
    "comfy.ldm.models.autoencoder.AutoencoderKL",
    "comfy.ldm.modules.temporal_ae.VideoDecoder",
    "comfy.diffusers_convert.convert_vae_state_dict",
    "comfy.sd.load_diffusion_model_state_dict",
    "comfy.sd.CLIP",
    "comfy.sd.VAE",
    "comfy.lora.load_lora",
    "comfy.lora.model_lora_keys_unet",
    "comfy.utils.load_torch_file",
    "comfy.sd1_clip.SDTokenizer",
    "comfy.sd1_clip.SDClipModel",
    "comfy.sd1_clip.SD1ClipModel",
    "comfy.sd1_clip.SD1Tokenizer",
    "comfy.text_encoders.t5.T5",
    "comfy.samplers.KSAMPLER",
    "comfy.sample.sample_custom",
    "comfy.sample.fix_empty_latent_channels",
    "comfy.sample.prepare_noise_inner",
    "comfy.utils.ProgressBar",
    "comfy.utils.calculate_parameters",
    "comfy.utils.weight_dtype",
    "comfy.model_patcher.ModelPatcher",
    "comfy.model_patcher.create_model_options_clone",
    "comfy.model_management.throw_exception_if_processing_interrupted",
    "comfy.model_management.get_torch_device",
    "comfy.model_management.intermediate_device",
    "comfy.model_management.load_models_gpu",
    "comfy.model_management.soft_empty_cache",
    "comfy.model_management.unet_dtype",
    "comfy.model_management.unet_manual_cast",
    "comfy.model_management.unet_offload_device",
    "latent_preview.prepare_callback",
    "folder_paths.get_filename_list",
    "folder_paths.get_full_path_or_raise",
    "folder_paths.get_folder_paths",
)


def check_all_that_we_use_of_comfyui_is_there(stage: Stage) -> None:
    for symbol in SYMBOLS:
        module, _, name = symbol.rpartition(".")
        expect(hasattr(importlib.import_module(module), name), symbol)
