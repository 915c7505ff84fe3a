"""Converting whatever people have to one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import FAMILY_NAMES, torch_bytes, write_hollow
from latte_test_support.tiny.latte import (
    IMAGE,
    NO_CLASSES,
    tiny_latte,
    tiny_latte_config,
    tiny_latte_weights,
    write_latte_folder,
)
from latte_test_support.tiny.t2v import tiny_config, tiny_weights, write_transformer_folder
from latte_test_support.tiny.text import t5_tensors
from latte_test_support.tiny.vae import vae_tensors
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latte_core.checkpoint import convert, identify, load_transformer, temporal_vae_to_svd
from latte_core.config.latte import LatteConfig
from latte_core.errors import (
    CheckpointError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)

LORA = "transformer.temporal_transformer_blocks.0.attn1.to_q"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def hidden_16() -> dict[str, Any]:
    """A tiny config whose head count is the released one."""
    return tiny_config(num_attention_heads=16, attention_head_dim=1)


def test_old_pt_becomes_one_file_that_needs_no_config(tmp_path: Path) -> None:
    weights = tiny_weights()
    source, target = tmp_path / "t2v.pt", tmp_path / "latte.safetensors"
    old = {**weights, "caption_projection.y_embedding": torch.zeros(120, 24)}
    source.write_bytes(torch_bytes({"model": weights, "ema": old}))
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    done = convert(source, target)
    assert (done.kind, done.num_tensors) == ("transformer", len(weights))
    assert done.num_bytes == target.stat().st_size
    assert done.sentence.startswith("Wrote latte.safetensors from t2v.pt: transformer, ")
    (tmp_path / "config.json").unlink()
    assert load_transformer(target).config.num_attention_heads == 2
    assert set(load_file(target)) == set(weights)


def test_whole_model_folder_gives_the_part_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "Latte-1"
    write_transformer_folder(folder / "transformer")
    (folder / "vae").mkdir()
    vae = vae_tensors(temporal=False)
    save_file(vae, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    assert convert(folder, tmp_path / "t.safetensors").kind == "transformer"
    done = convert(folder, tmp_path / "v.safetensors", kind="image_vae")
    assert done.kind == "image_vae"
    assert set(load_file(tmp_path / "v.safetensors")) == set(vae)
    with pytest.raises(CheckpointError, match="no folder text_encoder"):
        convert(folder, tmp_path / "x.safetensors", kind="text_encoder")


def test_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UnknownArchitectureError, match="no Latte folder"):
        convert(tmp_path, tmp_path / "x.safetensors")


@pytest.fixture(scope="module")
def temporal_vae() -> dict[str, Tensor]:
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
    )
    return vae.state_dict()


def test_temporal_vae_gets_the_names_comfyui_reads(
    tmp_path: Path, temporal_vae: dict[str, Tensor]
) -> None:
    source, target = tmp_path / "vae.safetensors", tmp_path / "svd.safetensors"
    save_file(temporal_vae, source)
    assert convert(source, target).kind == "temporal_vae"
    assert set(load_file(target)) == set(temporal_vae_to_svd(temporal_vae))
    again = convert(target, tmp_path / "again.safetensors")
    assert "already" in again.sentence
    assert set(load_file(tmp_path / "again.safetensors")) == set(load_file(target))


def test_lora_gets_native_names_and_its_strength(tmp_path: Path) -> None:
    source, target = tmp_path / "adapter_model.safetensors", tmp_path / "native.safetensors"
    save_file(
        {f"{LORA}.lora_A.weight": torch.ones(2, 16), f"{LORA}.lora_B.weight": torch.ones(16, 2)},
        source,
        {"note": "kept"},
    )
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}')
    done = convert(source, target)
    assert done.kind == "lora"
    assert "1 layers of Latte" in done.sentence
    start = "diffusion_model.temporal_transformer_blocks.0.attn1.to_q"
    found = load_file(target)
    assert set(found) == {f"{start}.{p}" for p in ("lora_A.weight", "lora_B.weight", "alpha")}
    assert found[f"{start}.alpha"] == 4
    assert metadata_of(target)["note"] == "kept"


@pytest.mark.parametrize(
    ("changes", "kind", "note"),
    [
        ({}, "class_transformer", "It is a class-conditional Latte (4 blocks, width 16"),
        (NO_CLASSES, "class_transformer", "It is an unconditional Latte (4 blocks"),
        ({"variant": 3}, "class_transformer", "patch 2) of variant 3 with 5 classes."),
        ({"num_classes": 1000, **IMAGE}, "image_transformer", "image model with 1000 classes."),
    ],
    ids=["class", "unconditional", "variant 3", "DiT"],
)
def test_class_model_becomes_one_file_that_needs_no_config(
    tmp_path: Path, changes: dict[str, Any], kind: str, note: str
) -> None:
    weights = tiny_latte_weights(**changes)
    source, target = tmp_path / "ffs.pt", tmp_path / "ffs.safetensors"
    compiled = {f"_orig_mod.{key}": value for key, value in weights.items()}
    source.write_bytes(torch_bytes({"model": weights, "ema": compiled}))
    (tmp_path / "config.json").write_text(json.dumps(tiny_latte_config(**changes)))
    done = convert(source, target)
    assert (done.kind, done.num_tensors) == (kind, len(weights))
    assert note in done.sentence
    (tmp_path / "config.json").unlink()
    found = load_transformer(target)
    assert found.config == tiny_latte(**changes).config
    assert all(torch.equal(value, weights[key]) for key, value in found.state_dict().items())
    assert convert(target, tmp_path / "again.safetensors", kind=kind).kind == kind


def test_position_tables_keep_their_type(tmp_path: Path) -> None:
    source, target = tmp_path / "w.safetensors", tmp_path / "half.safetensors"
    config = {"config": json.dumps(tiny_latte_config())}
    save_file(tiny_latte_weights(), source, config)
    convert(source, target, dtype=torch.bfloat16)
    types = {key: value.dtype for key, value in load_file(target).items()}
    assert {types.pop("pos_embed"), types.pop("temp_embed")} == {torch.float32}
    assert set(types.values()) == {torch.bfloat16}


def test_class_model_saved_by_comfyui_becomes_a_plain_one(tmp_path: Path) -> None:
    prefix, config = "model.diffusion_model.", tiny_latte_config(temporal_positions="rotary")
    text = torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)
    weights = tiny_latte_weights(prefix=prefix, temporal_positions="rotary")
    source, target = tmp_path / "saved.safetensors", tmp_path / "plain.safetensors"
    save_file({**weights, f"{prefix}latte_config": text}, source)
    assert convert(source, target).kind == "class_transformer"
    assert load_transformer(target).config == LatteConfig.from_dict(config)
    assert "latte_config" not in load_file(target)


def test_folder_of_a_class_model_gives_its_transformer(tmp_path: Path) -> None:
    write_latte_folder(tmp_path / "mine" / "transformer")
    done = convert(tmp_path / "mine", tmp_path / "x.safetensors")
    assert done.kind == "class_transformer"
    with pytest.raises(CheckpointError, match="no folder vae"):
        convert(tmp_path / "mine", tmp_path / "v.safetensors", kind="image_vae")


def test_weights_that_do_not_tell_their_heads_are_not_converted_to_a_riddle(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "ffs.pt", tmp_path / "ffs.safetensors"
    source.write_bytes(torch_bytes(tiny_latte_weights()))
    with pytest.raises(WeightMismatchError, match="num_heads"):
        convert(source, target)
    assert not target.exists()


def test_sharded_text_encoder_becomes_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    weights = t5_tensors()
    names = list(weights)
    save_file({names[0]: weights[names[0]]}, folder / "1.safetensors")
    save_file({name: weights[name] for name in names[1:]}, folder / "2.safetensors")
    where = {name: f"{2 if number else 1}.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert convert(folder, tmp_path / "t5.safetensors").kind == "text_encoder"
    assert set(load_file(tmp_path / "t5.safetensors")) == set(names)


def test_weights_are_written_in_the_type_asked_for(tmp_path: Path) -> None:
    source, target = tmp_path / "w.safetensors", tmp_path / "half.safetensors"
    save_file(tiny_weights(), source, {"config": json.dumps(tiny_config())})
    convert(source, target, dtype=torch.float16)
    assert {value.dtype for value in load_file(target).values()} == {torch.float16}
    with pytest.raises(InvalidInputError, match="cannot be written as"):
        convert(source, target, dtype=torch.int8)


def test_conversion_of_our_own_file_renews_its_digest(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file(tiny_weights(), tmp_path / "0.safetensors", {"config": json.dumps(tiny_config())})
    convert(tmp_path / "0.safetensors", first)
    convert(first, second, dtype=torch.bfloat16)
    assert metadata_of(first)["latte_sha256"] != metadata_of(second)["latte_sha256"]
    load_transformer(second)


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("x.pt", None, "x.safetensors"),
        ("gone/x.safetensors", None, "folder does not exist"),
        ("folder.safetensors", None, "folder"),
        ("x.safetensors", "picture", "no kind of file"),
    ],
)
def test_unusable_request_is_refused_before_reading(
    tmp_path: Path, target: str, kind: str | None, words: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InvalidInputError, match=words):
        convert(tmp_path / "absent.pt", tmp_path / target, kind=kind)


@pytest.mark.parametrize(("family", "kind"), [("CLIP", None), ("T5_ENCODER", "transformer")])
def test_other_models_are_refused(tmp_path: Path, family: str, kind: str | None) -> None:
    source = write_hollow(tmp_path / "m.safetensors", FAMILY_NAMES[family], {})
    with pytest.raises(UnknownArchitectureError, match="was not converted"):
        convert(source, tmp_path / "x.safetensors", kind=kind)


def test_cut_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "w.safetensors"
    save_file(tiny_weights(), source)
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="incomplete"):
        convert(source, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_converted_file_is_identified_with_its_size(tmp_path: Path) -> None:
    source, target = tmp_path / "w.safetensors", tmp_path / "x.safetensors"
    save_file(tiny_weights(prefix="module."), source, {"config": json.dumps(hidden_16())})
    before = identify(source)
    assert before.details["prefix"] == "module."
    convert(source, target)
    details = identify(target).details
    assert (details["layers"], details["width"], details["heads"]) == (2, 16, 16)
    assert "prefix" not in details


def test_class_model_under_any_prefix_is_known_for_what_it_is(tmp_path: Path) -> None:
    source = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(prefix="net."), source)
    with pytest.raises(WeightMismatchError, match="the weights of a Latte of width 16"):
        convert(source, tmp_path / "x.safetensors")
