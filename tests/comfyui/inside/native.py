"""Checks that the MODEL, CLIP and VAE of this pack are what the reference is, inside ComfyUI."""

from __future__ import annotations

from pathlib import Path

import torch
from host import STARTER, Stage, expect, expect_error, relative

TINY = 1e-5


def check_frames_as_batch_equal_whole_videos(stage: Stage) -> None:
    x, text = torch.randn(6, 4, 8, 6), torch.randn(2, 5, 128)
    flat = stage.noise_of(x, text, conds=2)
    videos = x.unflatten(0, (2, 3)).transpose(1, 2)
    whole = stage.noise_of(videos, text, conds=2)
    expect(relative(flat, whole.transpose(1, 2).flatten(0, 1)) < TINY)


def check_stacked_conds_equal_single_calls(stage: Stage) -> None:
    x, text = torch.randn(9, 4, 8, 8), torch.randn(3, 5, 128)
    together = stage.noise_of(x, text, conds=3)
    alone = [stage.noise_of(x[3 * k : 3 * k + 3], text[k : k + 1]) for k in range(3)]
    expect(relative(together, torch.cat(alone)) < TINY)


def check_model_equals_latte_core(stage: Stage) -> None:
    loader = stage.part("latte_core.checkpoint.loading.loader")
    core = loader.load_transformer(STARTER)
    x, text = torch.randn(5, 4, 8, 10), torch.randn(1, 6, 128)
    ours = stage.noise_of(x, text)
    videos = x.transpose(0, 1)[None]
    expected = core(videos, torch.tensor([500.0]), text)[:, :4]
    expect(relative(ours, expected[0].transpose(0, 1)) < TINY)


def check_variance_goes_to_the_collector(stage: Stage) -> None:
    collector = stage.part("nodes.host.model.hooks").VarianceCollector()
    core = stage.part("latte_core.checkpoint.loading.loader").load_transformer(STARTER)
    x, text = torch.randn(5, 4, 8, 8), torch.randn(1, 6, 128)
    options = {"cond_or_uncond": [0], "latte_variance": collector}
    steps = torch.full((5,), 500.0)
    stage.model.model.diffusion_model(x, steps, context=text, transformer_options=options)
    ((conds, variance),) = collector.take()
    expected = core(x.transpose(0, 1)[None], steps[:1], text)[0, 4:].transpose(0, 1)
    error = float((variance - expected).abs().max())
    expect(conds == [0] and error < 1e-4, conds, error)
    expect_error("InvalidInputError", ["EasyCache"], collector.take)


def check_temporal_attention_can_be_switched_off(stage: Stage) -> None:
    x, text = torch.randn(3, 4, 8, 8), torch.randn(1, 5, 128)
    inner = stage.model.model.diffusion_model
    options = {"latte_temporal_attention": False}
    steps = torch.full((3,), 500.0)
    still = inner(x, steps, context=text, transformer_options=options)
    alone = [
        inner(x[k : k + 1], steps[:1], context=text, transformer_options=options) for k in range(3)
    ]
    expect(relative(still, torch.cat(alone)) < TINY)
    expect(relative(still, stage.noise_of(x, text)) > 1e-4)


def check_each_frame_may_have_its_own_text(stage: Stage) -> None:
    x, text = torch.randn(3, 4, 8, 8), torch.randn(1, 5, 128)
    same = stage.noise_of(x, text)
    expect(relative(stage.noise_of(x, text.repeat(3, 1, 1)), same) < TINY)
    mixed = torch.cat([text, text * 0.1, text])
    expect(relative(stage.noise_of(x, mixed), same) > 1e-4)


def check_odd_latents_are_padded_and_cropped(stage: Stage) -> None:
    out = stage.noise_of(torch.randn(2, 4, 7, 9), torch.randn(1, 5, 128))
    expect(out.shape == (2, 4, 7, 9), out.shape)
    sampled = stage.ksampler(latent_image={"samples": torch.zeros(2, 4, 7, 9)})
    expect(sampled.shape == (2, 4, 7, 9) and bool(sampled.isfinite().all()))


def check_one_frame_and_seventeen_frames_run(stage: Stage) -> None:
    for frames in (1, 17):
        out = stage.noise_of(torch.randn(frames, 4, 8, 8), torch.randn(1, 5, 128))
        expect(out.shape[0] == frames and bool(out.isfinite().all()), frames)


def check_schedule_is_plain_linear_beta(stage: Stage) -> None:
    sigmas = stage.model.get_model_object("model_sampling").sigmas.double()
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    expected = ((1 - alphas) / alphas).sqrt()
    expect(float(((sigmas - expected) / expected).abs().max()) < 1e-6)
    expect(abs(float(sigmas[-1]) - 157.4073) < 1e-3, sigmas[-1])


def check_latte_scheduler_gives_leading_spacing(stage: Stage) -> None:
    table = stage.model.get_model_object("model_sampling").sigmas
    sigmas = stage.call("LatteScheduler", model=stage.model, steps=50, denoise=1.0)[0]
    expect(torch.equal(sigmas[:3], table[[980, 960, 940]].float()), sigmas[:3])
    expect(len(sigmas) == 51 and sigmas[-1] == 0 and sigmas[-2] == table[0])
    half = stage.call("LatteScheduler", model=stage.model, steps=10, denoise=0.5)[0]
    expect(len(half) == 11 and half[0] == table[450], half[0])


def check_text_equals_latte_core(stage: Stage) -> None:
    encoder_class = stage.part("latte_core.text.t5").TextEncoder
    read = stage.part("latte_core.checkpoint.reading.reader").read_tensors
    core = encoder_class.from_folder(STARTER / "text_encoder", read=lambda path: read(path).tensors)
    pair = stage.part("latte_core.text.pair").encode_pair
    for prompt, negative in (("a red circle moving left", ""), ("", "blue"), ("x " * 300, "y")):
        expected = pair(core, prompt, negative, clean_caption=False)
        found = stage.prompts(prompt, negative)
        for ours, theirs in zip(found, expected, strict=True):
            expect(ours[0][0].shape == theirs.shape, prompt[:9], ours[0][0].shape, theirs.shape)
            expect(relative(ours[0][0], theirs) < TINY, prompt[:9])
        expect("pooled_output" not in found[0][0][1])


def check_stock_text_encode_gives_the_trimmed_rows(stage: Stage) -> None:
    ours = stage.prompts("A Blue square moving up")[0][0][0]
    stock = stage.call("CLIPTextEncode", clip=stage.clip, text="A Blue square moving up")[0][0][0]
    expect(stock.shape == ours.shape and relative(stock, ours) < TINY)
    empty = stage.call("CLIPTextEncode", clip=stage.clip, text="")[0][0][0]
    expect(empty.shape[1] == 1, empty.shape)
    long = stage.call("CLIPTextEncode", clip=stage.clip, text="up " * 500)[0][0][0]
    expect(long.shape[1] == 120, long.shape)


def check_long_prompts_are_reported(stage: Stage) -> None:
    inputs = {"clean_caption": True, "mask_feature": True, "negative_prompt": ""}
    report = stage.call("LatteTextEncode", clip=stage.clip, prompt="up " * 200, **inputs)[2]
    expect("120" in report and "201" in report, report)


def diffusers_frames(subfolder: str, cls: str, latents: torch.Tensor) -> torch.Tensor:
    """Decode with diffusers, in float32."""
    import diffusers

    vae = getattr(diffusers, cls).from_pretrained(STARTER / subfolder, torch_dtype=torch.float32)
    extra = {"num_frames": len(latents)} if "Temporal" in cls else {}
    with torch.no_grad():
        frames = vae.decode(latents, **extra).sample
    return (frames / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def check_temporal_vae_equals_diffusers(stage: Stage) -> None:
    latents = torch.randn(5, 4, 8, 8) * 3
    ours = stage.call(
        "LatteVAEDecode", samples={"samples": latents}, vae=stage.vae, chunk_frames=0
    )[0]
    expected = diffusers_frames(
        "vae_temporal_decoder", "AutoencoderKLTemporalDecoder", latents.clone()
    )
    expect(float((ours - expected).abs().max()) < 1e-4, (ours - expected).abs().max())
    stock = stage.call("VAEDecode", vae=stage.vae, samples={"samples": latents})[0]
    expect(float((stock - expected).abs().max()) < 1e-4, "stock VAEDecode")


def check_image_vae_equals_diffusers(stage: Stage) -> None:
    vae = stage.call("LatteVAELoader", vae_name="starter", kind="image")[0]
    latents = torch.randn(3, 4, 8, 8) * 3
    expected = diffusers_frames("vae", "AutoencoderKL", latents.clone())
    for node in ("VAEDecode", "LatteVAEDecode"):
        extra = {"chunk_frames": 0} if node == "LatteVAEDecode" else {}
        frames = stage.call(node, vae=vae, samples={"samples": latents}, **extra)[0]
        expect(float((frames - expected).abs().max()) < 1e-4, node)


def check_both_vaes_encode_like_diffusers(stage: Stage) -> None:
    import diffusers

    pixels = torch.rand(2, 64, 64, 3)
    classes = {"image": "AutoencoderKL", "temporal": "AutoencoderKLTemporalDecoder"}
    folders = {"image": "vae", "temporal": "vae_temporal_decoder"}
    for kind, cls in classes.items():
        vae = stage.call("LatteVAELoader", vae_name="starter", kind=kind)[0]
        ours = stage.call("VAEEncode", vae=vae, pixels=pixels)[0]["samples"]
        reference = getattr(diffusers, cls).from_pretrained(STARTER / folders[kind]).float()
        video = pixels.movedim(-1, 1) * 2 - 1
        expected = reference.encode(video).latent_dist.mode()
        expect(relative(ours, expected) < 1e-4, kind, relative(ours, expected))


def check_vae_inside_a_checkpoint_file(stage: Stage) -> None:
    import safetensors.torch

    source = STARTER / "vae" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(source)
    weights = {f"first_stage_model.{name}": value for name, value in weights.items()}
    name = save(weights, "vae", "prefixed.safetensors")
    vae = stage.call("LatteVAELoader", vae_name=name, kind="auto")[0]
    plain = stage.call("LatteVAELoader", vae_name="starter", kind="image")[0]
    latents = {"samples": torch.randn(2, 4, 8, 8)}
    found = [stage.call("VAEDecode", vae=each, samples=latents)[0] for each in (vae, plain)]
    expect(torch.equal(*found))


def check_chunks_do_not_mix_videos(stage: Stage) -> None:
    videos = torch.randn(2, 4, 5, 8, 8)
    both = stage.call("LatteVAEDecode", samples={"samples": videos}, vae=stage.vae, chunk_frames=3)[
        0
    ]
    each = [
        stage.call(
            "LatteVAEDecode",
            samples={"samples": video.movedim(1, 0)},
            vae=stage.vae,
            chunk_frames=3,
        )[0]
        for video in videos
    ]
    expect(torch.equal(both, torch.cat(each)))


def check_svd_layout_file_loads_in_both_loaders(stage: Stage) -> None:
    import folder_paths
    import safetensors.torch

    convert = stage.part("latte_core.checkpoint.loading.adapters").temporal_vae_to_svd
    source = STARTER / "vae_temporal_decoder" / "diffusion_pytorch_model.safetensors"
    target = Path(folder_paths.get_folder_paths("vae")[0]) / "svd_layout.safetensors"
    weights = {k: v.contiguous() for k, v in convert(safetensors.torch.load_file(source)).items()}
    safetensors.torch.save_file(weights, target)
    vae = stage.call("LatteVAELoader", vae_name=target.name, kind="auto")[0]
    latents = {"samples": torch.randn(3, 4, 8, 8)}
    expected = stage.call("VAEDecode", vae=stage.vae, samples=latents)[0]
    expect(torch.equal(stage.call("VAEDecode", vae=vae, samples=latents)[0], expected))
    expect_error(
        "IncompatibleInputsError",
        ["svd_layout", "temporal", "image"],
        lambda: stage.call("LatteVAELoader", vae_name=target.name, kind="image"),
    )


def tiny_t5(width: int = 128) -> dict[str, torch.Tensor]:
    """Return random weights of a T5 v1.1 with the words of T5-XXL, 2 layers."""
    generator = torch.Generator().manual_seed(0)

    def weight(rows: int, columns: int, scale: float = 0.1) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    tensors = {"shared.weight": weight(32128, width, 1.0)}
    tensors["encoder.final_layer_norm.weight"] = torch.ones(width)
    for index in range(2):
        block = f"encoder.block.{index}.layer"
        for name in "qkvo":
            tensors[f"{block}.0.SelfAttention.{name}.weight"] = weight(width, width)
        for name, shape in (("wi_0", (64, width)), ("wi_1", (64, width)), ("wo", (width, 64))):
            tensors[f"{block}.1.DenseReluDense.{name}.weight"] = weight(*shape)
        for part in (0, 1):
            tensors[f"{block}.{part}.layer_norm.weight"] = torch.ones(width)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[bias] = weight(32, 4)
    return tensors


def save(tensors: dict[str, torch.Tensor], category: str, name: str) -> str:
    """Write a file into one of ComfyUI's model folders and return its name."""
    import folder_paths
    import safetensors.torch

    target = Path(folder_paths.get_folder_paths(category)[0]) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, target)
    return target.name


def scaled_fp8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Store the block matrices in fp8 with a scale, as files of ComfyUI do."""
    out: dict[str, torch.Tensor] = {"scaled_fp8": torch.tensor([], dtype=torch.float8_e4m3fn)}
    for name, value in tensors.items():
        if ".block." in name and "norm" not in name and "bias" not in name:
            scale = value.abs().max() / 448
            out[name] = (value / scale).to(torch.float8_e4m3fn)
            out[name.replace(".weight", ".scale_weight")] = scale.float()
        else:
            out[name] = value.to(torch.float16)
    return out


def check_single_t5_files_in_every_precision(stage: Stage) -> None:
    tensors = tiny_t5()
    found: dict[str, torch.Tensor] = {}
    files = {"fp32": tensors, "fp16": {k: v.half() for k, v in tensors.items()}}
    files["fp8"] = {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in tensors.items()}
    files["scaled"] = scaled_fp8(tensors)
    for kind, weights in files.items():
        name = save(weights, "text_encoders", f"t5_{kind}.safetensors")
        clip = stage.call("LatteTextEncoderLoader", encoder_name=name, device="default")[0]
        given = {"prompt": "A cat on a mat", "negative_prompt": "", "clean_caption": True}
        found[kind] = stage.call("LatteTextEncode", clip=clip, mask_feature=True, **given)[0][0][0]
        stock = stage.call("CLIPTextEncode", clip=clip, text="a cat on a mat")[0][0][0]
        expect(relative(stock, found[kind]) < 1e-4, kind, relative(stock, found[kind]))
    expect(found["fp32"].shape[2] == 128, found["fp32"].shape)
    for kind, limit in (("fp16", 0.01), ("fp8", 0.6), ("scaled", 0.2)):
        error = relative(found[kind], found["fp32"])
        expect(0 < error < limit, kind, error)


def check_text_encoder_inside_a_checkpoint(stage: Stage) -> None:
    weights = {
        f"text_encoders.t5xxl.transformer.{name}": value for name, value in tiny_t5().items()
    }
    saved = stage.model.model.state_dict_for_saving
    takes_weights = saved.__code__.co_varnames[1] == "unet_state_dict"
    inner = stage.model.model.diffusion_model.state_dict()
    model = saved(inner) if takes_weights else saved()
    name = save({**weights, **model}, "checkpoints", "all_in_one.safetensors")
    loaded = stage.call("CheckpointLoaderSimple", ckpt_name=name)
    expect(relative(stage.ksampler(loaded[0]), stage.ksampler()) < 1e-5)
    text = stage.call("CLIPTextEncode", clip=loaded[1], text="a cat")[0][0][0]
    expect(text.shape[2] == 128 and bool(text.isfinite().all()))
