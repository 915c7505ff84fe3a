"""Telling a person what a file is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from latte_test_support.malformed import FAMILY_NAMES, small_safetensors, torch_bytes, write_hollow
from latte_test_support.tiny.t2v import tiny_config, tiny_weights, write_transformer_folder

from latte_core.checkpoint import Family, identify, read_header, require_family
from latte_core.checkpoint.reading.records import size_text
from latte_core.checkpoint.recognition.families import family_of, joined
from latte_core.checkpoint.recognition.layout import t2v_layout
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import CheckpointError, CorruptCheckpointError

SPELLINGS = {
    "svd names": (Family.TEMPORAL_VAE, ["decoder.mid.block_1.mix_factor"]),
    "native PixArt": (Family.PIXART, ["blocks.0.cross_attn.q_linear.weight"]),
    "kohya LoRA": (Family.LORA, ["lora_unet_transformer_blocks_0_attn1_to_q.alpha"]),
    "LoHa": (Family.LORA, ["transformer_blocks.0.attn1.to_q.hada_w1_a"]),
    "Wan's umT5": (Family.UMT5_ENCODER, ["token_embedding.weight", "blocks.0.attn.q.weight"]),
    "T5 shard": (Family.T5_ENCODER, ["encoder.block.17.layer.1.DenseReluDense.wo.weight"]),
    "T5 in a checkpoint": (
        Family.T5_ENCODER,
        ["text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"],
    ),
    "open_clip": (Family.CLIP, ["transformer.resblocks.0.attn.in_proj_weight"]),
    "diffusers Flux": (
        Family.FLUX,
        ["single_transformer_blocks.0.proj_out.weight", "context_embedder.weight"],
    ),
    "diffusers LTX": (
        Family.LTX_VIDEO,
        [
            "transformer_blocks.0.attn1.norm_q.weight",
            "proj_in.weight",
            "adaln_single.linear.weight",
        ],
    ),
    "CogVideoX": (
        Family.OTHER_VIDEO,
        ["transformer_blocks.0.norm1.linear.weight", "patch_embed.text_proj.weight"],
    ),
    "AnimateDiff": (Family.OTHER_VIDEO, ["down_blocks.0.motion_modules.0.norm.weight"]),
    "Wan VAE": (Family.OTHER_VAE, ["decoder.upsamples.0.weight", "decoder.middle.0.weight"]),
    "prefixed DiT": (
        Family.DIT,
        [
            "module.blocks.0.attn.qkv.weight",
            "module.blocks.0.adaLN_modulation.1.weight",
            "module.x_embedder.proj.weight",
        ],
    ),
    "compiled Latte": (
        Family.LATTE_CLASS,
        [
            "_orig_mod.blocks.0.attn.qkv.weight",
            "_orig_mod.x_embedder.proj.weight",
            "_orig_mod.temp_embed",
        ],
    ),
    "Latte of variant 3 with rotary positions": (
        Family.LATTE_CLASS,
        [
            "blocks.0.attn.qkv.weight",
            "blocks.0.attn_temp.qkv.weight",
            "x_embedder.proj.weight",
            "t_embedder.mlp.0.weight",
        ],
    ),
    "Sana, which has DiT's names and cross-attention": (
        Family.PIXART,
        [
            "blocks.0.attn.qkv.weight",
            "x_embedder.proj.weight",
            "t_embedder.mlp.0.weight",
            "blocks.0.cross_attn.q_linear.weight",
        ],
    ),
    "a vision transformer": (
        Family.UNKNOWN,
        ["blocks.0.attn.qkv.weight", "patch_embed.proj.weight", "pos_embed"],
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_family_is_recognised(spelling: str) -> None:
    family, names = SPELLINGS[spelling]
    assert family_of({name: (8, 8) for name in names}) is family


@pytest.mark.parametrize("family", Family)
def test_no_family_is_without_a_sentence(family: Family) -> None:
    assert family.value[0].islower() or family.value.startswith("a ")


@pytest.mark.parametrize("is_zip", [True, False])
def test_full_size_names_in_a_pickle_are_described_in_under_a_second(
    tmp_path: Path, is_zip: bool
) -> None:
    layout = t2v_layout(LatteT2VConfig())
    weights = {key: torch.zeros([1] * len(shape)) for key, shape in layout.items()}
    optimizer = {n: {"exp_avg": torch.zeros(1), "step": n} for n in range(2000)}
    path = tmp_path / "0100000.pt"
    content = {"model": weights, "ema": weights, "opt": {"state": optimizer}}
    path.write_bytes(torch_bytes(content, is_zip=is_zip))
    start = time.process_time()
    found = identify(path)
    assert time.process_time() - start < 1
    assert found.family is Family.LATTE_T2V
    assert found.details["container"] == "ema"
    assert found.details["weights"] == "averaged (EMA)"
    assert found.details["tensors"] == 967


def test_full_size_file_is_described_with_its_numbers(tmp_path: Path) -> None:
    shapes = t2v_layout(LatteT2VConfig())
    found = identify(write_hollow(tmp_path / "latte.safetensors", shapes, {}))
    assert found.details["parameters"] == 1_057_246_880
    assert found.details["types"] == "F16 x 967"
    assert (found.details["layers"], found.details["width"]) == (28, 1152)
    assert found.sentence == "This is a Latte text-to-video transformer. Use Latte Model Loader."


def test_cut_file_with_a_whole_header_is_named_and_said_to_be_cut(tmp_path: Path) -> None:
    shapes = FAMILY_NAMES["IMAGE_VAE"]
    path = write_hollow(tmp_path / "vae.safetensors", shapes, {})
    with path.open("rb+") as handle:
        handle.truncate(path.stat().st_size - 3)
    found = identify(path)
    assert found.family is Family.IMAGE_VAE
    assert not found.is_whole
    assert "incomplete" in found.sentence
    assert not read_header(path).is_whole
    with pytest.raises(CheckpointError, match="incomplete"):
        require_family(path, Family.IMAGE_VAE, "a VAE")


def test_other_files_are_refused_with_their_own_sentence(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_text("<html>403</html>")
    with pytest.raises(CorruptCheckpointError, match="HTML page"):
        require_family(path, Family.IMAGE_VAE, "a VAE")
    path.write_bytes(small_safetensors()[:20])
    with pytest.raises(CorruptCheckpointError, match="incomplete"):
        require_family(path, Family.IMAGE_VAE, "a VAE")


def test_several_families_may_be_accepted(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "v.safetensors", FAMILY_NAMES["TEMPORAL_VAE"], {})
    require_family(path, [Family.IMAGE_VAE, Family.TEMPORAL_VAE], "a VAE")


def test_folders_are_identified(tmp_path: Path) -> None:
    folder = tmp_path / "Latte-1"
    transformer = write_transformer_folder(folder / "transformer")
    (folder / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    assert identify(folder).family is Family.LATTE_FOLDER
    found = identify(transformer)
    assert found.family is Family.LATTE_T2V
    assert found.details["heads"] == 2
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert identify(folder).family is Family.UNKNOWN
    assert "FluxPipeline" in identify(folder).sentence


def test_unusable_config_is_reported_and_does_not_hide_the_family(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    shapes = {key: tuple(value.shape) for key, value in tiny_weights().items()}
    write_hollow(path, shapes, {"config": json.dumps(tiny_config(num_layers=9))})
    found = identify(path)
    assert found.family is Family.LATTE_T2V
    assert "layers 9" in str(found.details["config"])
    (tmp_path / "config.json").write_text("{")
    write_hollow(path, shapes, {})
    assert "config.json" in str(identify(path).details["config"])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (10**20, "100000 PB"),
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (4_231_339_889, "4.2 GB"),
    ],
)
def test_sizes_are_written_as_people_do(number: int, text: str) -> None:
    assert size_text(number) == text


@pytest.mark.parametrize(
    ("items", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a or b"), ("abc", "a, b or c")]
)
def test_lists_are_joined_as_people_do(items: list[str], text: str) -> None:
    assert joined(items) == text
