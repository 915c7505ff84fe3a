"""Checks of wrong things wired together: each ends in a sentence that names both ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from host import STARTER, Stage, expect, expect_error


def check_clip_text_is_refused_by_both_samplers(stage: Stage) -> None:
    wrong = [[torch.randn(1, 77, 768), {}]]
    words = ["positive", "768", "128", "CLIP", "Latte Text Encode"]
    for sample in (stage.latte_sampler, stage.ksampler):
        expect_error("IncompatibleInputsError", words, lambda s=sample: s(positive=wrong))
    words[0] = "negative"
    for sample in (stage.latte_sampler, stage.ksampler):
        expect_error("IncompatibleInputsError", words, lambda s=sample: s(negative=wrong))


def check_missing_text_is_refused(stage: Stage) -> None:
    for wrong in ([], None, [[None, {}]]):
        expect_error(
            "IncompatibleInputsError",
            ["positive", "Latte Text Encode"],
            lambda w=wrong: stage.latte_sampler(positive=w),
        )


def check_other_models_are_refused(stage: Stage) -> None:
    other = SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace(unet_config={})))
    for node, inputs in (
        ("LatteScheduler", {"steps": 4, "denoise": 1.0}),
        ("LatteLoraLoader", {"lora_name": "x", "strength": 1.0}),
    ):
        expect_error(
            "IncompatibleInputsError",
            ["model", "Latte Model Loader"],
            lambda n=node, i=inputs: stage.call(n, model=other, **i),
        )
    expect_error("IncompatibleInputsError", ["model"], lambda: stage.latte_sampler(other))


def check_wrong_latents_are_refused(stage: Stage) -> None:
    for wrong in (torch.randn(4, 16, 8, 8), torch.zeros(4, 8, 8), None, torch.zeros(0, 4, 8, 8)):
        latent = {"samples": wrong}
        name = "InvalidInputError" if wrong is not None and 0 in wrong.shape else None
        name = name or "IncompatibleInputsError"
        expect_error(
            name,
            ["latent_image", "Empty Latte Latent"],
            lambda lat=latent: stage.latte_sampler(latent_image=lat),
        )
        expect_error(
            name,
            ["samples", "Latte VAE Decode"],
            lambda lat=latent: stage.call(
                "LatteVAEDecode", samples=lat, vae=stage.vae, chunk_frames=0
            ),
        )


def check_odd_sizes_name_the_nearest_ones(stage: Stage) -> None:
    expect_error(
        "InvalidInputError",
        ["latent_image", "72", "64 and 80"],
        lambda: stage.latte_sampler(latent_image={"samples": torch.zeros(2, 4, 9, 8)}),
    )
    for size in range(1, 65):
        if size % 16 == 0:
            stage.latent(1, size, 64)
        else:
            expect_error("InvalidInputError", ["height"], lambda s=size: stage.latent(1, s, 64))


def check_numbers_out_of_range_are_refused(stage: Stage) -> None:
    nan = float("nan")
    table: dict[str, list[Any]] = {
        "seed": [-1, 2**64, 1.5, None],
        "steps": [0, -1, 1001, 2**31, 2.5],
        "cfg": [-0.1, 101.0, nan, "7"],
        "denoise": [0.0, 1.01, nan],
        "eta": [-0.1, 1.1, nan],
    }
    for widget, values in table.items():
        for value in values:
            expect_error(
                "InvalidInputError",
                [widget],
                lambda w=widget, v=value: stage.latte_sampler(**{w: v}),
            )
    for seed in (0, 2**32, 2**63, 2**64 - 1):
        stage.latte_sampler(seed=seed, steps=1)


def check_giant_requests_allocate_nothing(stage: Stage) -> None:
    expect_error("InvalidInputError", ["frames", "4096"], lambda: stage.latent(2**31, 64, 64))
    expect_error("InvalidInputError", ["GiB"], lambda: stage.latent(4096, 8192, 8192))
    for height in (0, -16, 8208, 2**31):
        expect_error("InvalidInputError", ["height"], lambda h=height: stage.latent(1, h, 64))


def check_unlisted_names_are_refused(stage: Stage) -> None:
    names = ("../../x.safetensors", "/etc/passwd", "nothing.safetensors", "", "..", "starter/")
    nodes = {
        "LatteModelLoader": ("model_name", {"weight_dtype": "default"}),
        "LatteTextEncoderLoader": ("encoder_name", {"device": "default"}),
        "LatteVAELoader": ("vae_name", {"kind": "auto"}),
        "LatteLoraLoader": ("lora_name", {"model": stage.model, "strength": 1.0}),
    }
    for node, (widget, rest) in nodes.items():
        for name in names:
            expect_error(
                "InvalidInputError",
                [widget],
                lambda n=node, w=widget, v=name, r=rest: stage.call(n, **{w: v}, **r),
            )


def check_wrong_choices_are_refused(stage: Stage) -> None:
    load = {"model_name": "starter", "weight_dtype": "int4"}
    expect_error(
        "InvalidInputError", ["weight_dtype"], lambda: stage.call("LatteModelLoader", **load)
    )
    noise = {"noise_seed": 0, "noise_order": "other"}
    expect_error("InvalidInputError", ["noise_order"], lambda: stage.call("LatteNoise", **noise))


def check_files_in_the_wrong_loader_are_named(stage: Stage) -> None:
    import shutil

    import folder_paths

    def place(part: str, category: str) -> str:
        (source,) = (STARTER / part).glob("*.safetensors")
        target = Path(folder_paths.get_folder_paths(category)[0]) / f"{part}.safetensors"
        shutil.copyfile(source, target)
        return target.name

    vae = place("vae", "diffusion_models")
    expect_error(
        "UnknownArchitectureError",
        [vae, "VAE"],
        lambda: stage.call("LatteModelLoader", model_name=vae, weight_dtype="default"),
    )
    model = place("transformer", "text_encoders")
    expect_error(
        "UnknownArchitectureError",
        [model, "Latte"],
        lambda: stage.call("LatteTextEncoderLoader", encoder_name=model, device="default"),
    )
    text = place("text_encoder", "vae")
    expect_error(
        "UnknownArchitectureError",
        [text, "T5"],
        lambda: stage.call("LatteVAELoader", vae_name=text, kind="auto"),
    )


def check_umt5_and_clip_are_refused_by_name(stage: Stage) -> None:
    encoder = stage.part("nodes.host.text.encode")
    no_t5 = SimpleNamespace(cond_stage_model=SimpleNamespace(), tokenizer=SimpleNamespace())
    expect_error("IncompatibleInputsError", ["clip", "T5"], lambda: encoder.find_t5(no_t5))
    import comfy.ops
    import comfy.text_encoders.t5

    settings = {
        "num_layers": 2,
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 16,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "umt5",
        "vocab_size": 64,
    }
    t5 = comfy.text_encoders.t5.T5(settings, torch.float32, "cpu", comfy.ops.manual_cast)
    part = SimpleNamespace(transformer=t5)
    clip = SimpleNamespace(cond_stage_model=SimpleNamespace(umt5xxl=part))
    expect_error("IncompatibleInputsError", ["umT5", "Wan"], lambda: encoder.find_t5(clip))


def check_a_stock_clip_of_our_t5_encodes_the_same(stage: Stage) -> None:
    """CLIPLoader's class for PixArt, which has no mask, through Latte Text Encode."""
    import copy

    plain = copy.copy(stage.clip.cond_stage_model.t5xxl)
    expect(plain.enable_attention_masks)
    plain.enable_attention_masks = False
    holder = SimpleNamespace(t5xxl=plain)
    clip = SimpleNamespace(
        cond_stage_model=holder,
        tokenizer=stage.clip.tokenizer,
        load_model=stage.clip.load_model,
        patcher=stage.clip.patcher,
        add_hooks_to_dict=stage.clip.add_hooks_to_dict,
    )
    given = {"prompt": "red square", "negative_prompt": ""}
    given.update({"clean_caption": False, "mask_feature": True})
    found = stage.call("LatteTextEncode", clip=clip, **given)
    expected = stage.call("LatteTextEncode", clip=stage.clip, **given)
    for index in (0, 1):
        expect(torch.equal(found[index][0][0], expected[index][0][0]))


def check_strange_characters_never_fail(stage: Stage) -> None:
    for prompt in ("\ud800", "a\x00b", "\U0001f600" * 50, "\u202eabc", "x" * 1_000_000, " \n\t"):
        stage.prompts(prompt)
        stage.call("CLIPTextEncode", clip=stage.clip, text=prompt[:5000])


def check_image_latents_of_integers_are_cast(stage: Stage) -> None:
    latent = {"samples": torch.zeros(2, 4, 8, 8, dtype=torch.int64)}
    expect(stage.latte_sampler(latent_image=latent).dtype == torch.float32)
    double = {"samples": torch.zeros(2, 4, 8, 8, dtype=torch.float64)}
    expect(stage.latte_sampler(latent_image=double).dtype == torch.float32)


def check_everything_runs_without_diffusers(stage: Stage) -> None:
    import sys

    hidden = {name: module for name, module in sys.modules.items() if is_of(name, "diffusers")}
    for name in hidden:
        del sys.modules[name]
    sys.modules["diffusers"] = None
    try:
        model = stage.call("LatteModelLoader", model_name="starter", weight_dtype="default")[0]
        clip = stage.call("LatteTextEncoderLoader", encoder_name="starter", device="default")[0]
        given = {"prompt": "red", "negative_prompt": "", "clean_caption": True}
        text = stage.call("LatteTextEncode", clip=clip, mask_feature=True, **given)
        samples = stage.latte_sampler(model, positive=text[0], negative=text[1])
        for kind in ("image", "temporal"):
            vae = stage.call("LatteVAELoader", vae_name="starter", kind=kind)[0]
            latent = {"samples": samples}
            frames = stage.call("LatteVAEDecode", samples=latent, vae=vae, chunk_frames=0)[0]
            expect(frames.shape == (4, 64, 64, 3))
    finally:
        del sys.modules["diffusers"]
        sys.modules.update(hidden)


def is_of(name: str, package: str) -> bool:
    """Whether a module belongs to a package."""
    return name == package or name.startswith(f"{package}.")
