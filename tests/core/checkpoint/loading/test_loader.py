"""Every layout in which people have a Latte transformer loads to the same model."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes
from latte_test_support.tiny.t2v import (
    tiny_config,
    tiny_model,
    tiny_weights,
    write_transformer_folder,
)
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint import (
    convert,
    identify,
    load_transformer,
    read_header,
    read_tensors,
    write_safetensors,
)
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    InvalidInputError,
    UnknownArchitectureError,
    WeightMismatchError,
)

INDEX = "diffusion_pytorch_model.safetensors.index.json"


def same(model: torch.nn.Module, weights: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return set(found) == set(weights) and all(
        torch.equal(found[key], value) for key, value in weights.items()
    )


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_shards(folder: Path, seed: int = 0) -> Path:
    """Write a transformer folder in two shards with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_config()))
    weights = tiny_weights(seed)
    names = {key: f"part-{number % 2 + 1}.safetensors" for number, key in enumerate(weights)}
    for name in set(names.values()):
        part = {key: weights[key] for key in weights if names[key] == name}
        save_file(part, folder / name)
    write_index(folder, names)
    return folder


def test_folder_file_and_shards_of_the_transformer_load_alike(tmp_path: Path) -> None:
    weights = tiny_weights()
    one = write_transformer_folder(tmp_path / "model" / "transformer")
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    shards = write_shards(tmp_path / "shards")
    for path in (one, one.parent, one / "diffusion_pytorch_model.safetensors", shards, str(one)):
        assert same(load_transformer(path), weights)


def test_model_is_ready_for_use(tmp_path: Path) -> None:
    folder = write_transformer_folder(tmp_path / "t", seed=4)
    model, original = load_transformer(folder), tiny_model(seed=4)
    assert not model.training
    assert model.config == LatteT2VConfig.from_dict(tiny_config())
    latents, text = torch.randn(2, 4, 3, 6, 4), torch.randn(2, 5, 24)
    with torch.no_grad():
        timesteps = torch.tensor([3, 700])
        assert torch.equal(model(latents, timesteps, text), original(latents, timesteps, text))


@pytest.mark.parametrize("out_channels", [8, None])
def test_folder_that_diffusers_saved_with_values_left_out_loads(
    tmp_path: Path, out_channels: int | None
) -> None:
    from diffusers import LatteTransformer3DModel

    sizes = tiny_config()
    left_out = {"_class_name", "num_embeds_ada_norm", "out_channels"}
    kept = {key: value for key, value in sizes.items() if key not in left_out}
    saved = LatteTransformer3DModel(**kept, out_channels=out_channels, video_length=2)
    saved.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_embeds_ada_norm"] is None
    model = load_transformer(tmp_path)
    assert model.config.out_channels == (out_channels or model.config.in_channels)
    assert torch.equal(model.proj_out.weight, saved.proj_out.weight)


@pytest.mark.parametrize("is_zip", [True, False])
def test_old_t2v_pt_loads_without_its_unused_buffer(tmp_path: Path, is_zip: bool) -> None:
    weights = tiny_weights()
    old = {**weights, "caption_projection.y_embedding": torch.randn(120, 24)}
    path = tmp_path / "t2v.pt"
    path.write_bytes(torch_bytes({"ema": old}, is_zip=is_zip))
    assert same(load_transformer(path, config=tiny_config()), weights)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "module.", "_orig_mod.", "ema."])
def test_prefixed_single_file_loads(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_weights(prefix=prefix), path, {"config": json.dumps(tiny_config())})
    assert same(load_transformer(path), tiny_weights())


def test_all_in_one_checkpoint_gives_its_transformer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"vae.decoder.conv_in.weight": torch.ones(1), "text_encoders.t5.x": torch.ones(1)}
    path = tmp_path / "w.safetensors"
    save_file({**tiny_weights(prefix="model.diffusion_model."), **other}, path)
    with caplog.at_level(logging.INFO, "latte"):
        assert same(load_transformer(path, tiny_config()), tiny_weights())
    assert "2 tensors of other parts are not used" in caplog.text


def test_averaged_weights_in_safetensors_are_said_to_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({**tiny_weights(1, prefix="ema."), **tiny_weights(2, prefix="model.")}, path)
    with caplog.at_level(logging.INFO, "latte"):
        assert same(load_transformer(path, tiny_config()), tiny_weights(1))
    assert "averaged (EMA)" in caplog.text


def test_caller_config_wins_over_the_file_and_the_one_beside(tmp_path: Path) -> None:
    folder = write_transformer_folder(tmp_path / "t")
    assert load_transformer(folder, {"sample_size": 16}).config.sample_size == 16
    full = LatteT2VConfig.from_dict(tiny_config(sample_size=24))
    assert load_transformer(folder, full).config == full


def test_config_of_another_model_beside_the_file_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_weights(), path, {"config": json.dumps(tiny_config())})
    (tmp_path / "config.json").write_text('{"_class_name": "T5EncoderModel", "d_model": 4096}')
    assert same(load_transformer(path), tiny_weights())
    save_file(tiny_weights(), path)
    with caplog.at_level(logging.WARNING, "latte"):
        assert same(load_transformer(path, tiny_config()), tiny_weights())
    assert "T5EncoderModel and is not used" in caplog.text


def test_guessed_head_count_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_weights(), path)
    with caplog.at_level(logging.WARNING, "latte"):
        model = load_transformer(path, {"caption_channels": 24})
    assert model.config.num_attention_heads == 16
    assert "16 are assumed" in caplog.text


def test_text_width_is_checked_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_weights(), path)
    with pytest.raises(WeightMismatchError, match=r"\(16, 24\) instead of \(16, 4096\)"):
        load_transformer(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_layers_have_the_type_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_transformer(write_transformer_folder(tmp_path / "t"), dtype=dtype)
    assert model.proj_out.weight.dtype == dtype
    assert model.transformer_blocks[1].attn2.to_k.bias.dtype == dtype


def test_type_of_the_file_is_kept_when_none_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({key: value.half() for key, value in tiny_weights().items()}, path)
    model = load_transformer(path, tiny_config(), dtype=None)
    assert model.proj_out.weight.dtype == torch.float16


def test_mapped_weights_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"a": torch.ones(64), "b": torch.zeros(64)})
    tensors = read_tensors(path).tensors
    addresses = [tensors[key].untyped_storage().data_ptr() for key in ("a", "b")]
    assert tensors["b"].data_ptr() - tensors["a"].data_ptr() == 256 or len(set(addresses)) == 1


def test_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UnknownArchitectureError, match="StableDiffusionPipeline"):
        load_transformer(tmp_path)


def test_folder_with_two_files_and_no_index_asks_which(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(tiny_weights(), tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"2 weight files \(a\.safetensors, b\.safe"):
        load_transformer(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert same(load_transformer(tmp_path, tiny_config()), tiny_weights())


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "t")
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"1 of 2 weight files: part-2\.safetensors"):
        load_transformer(folder)


def test_cut_shard_is_told(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "t")
    part = folder / "part-2.safetensors"
    part.write_bytes(part.read_bytes()[:-5])
    for action in (load_transformer, read_header, read_tensors):
        with pytest.raises(CorruptCheckpointError, match=r"part-2\.safetensors is incomplete"):
            action(folder)


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "t")
    shutil.copy(folder / "part-1.safetensors", folder / "part-2.safetensors")
    with pytest.raises(CorruptCheckpointError, match="same tensor"):
        load_transformer(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        [],
        5,
        {"w": 5},
        {"w": "../outside.safetensors"},
        {"w": "/etc/passwd"},
        {"w": "a\\b"},
        {"w": "C:x"},
        {"w": ["x"]},
        {f"w{n}": f"{n}.safetensors" for n in range(1001)},
    ],
)
def test_index_that_leads_elsewhere_is_refused(tmp_path: Path, weight_map: Any) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(CorruptCheckpointError, match="index.json"):
        load_transformer(tmp_path)


def test_giant_config_is_refused(tmp_path: Path) -> None:
    folder = write_transformer_folder(tmp_path / "t")
    (folder / "config.json").write_text(" " * (2**20 + 1))
    with pytest.raises(CorruptCheckpointError, match=r"config\.json.*longer"):
        load_transformer(folder)


def test_unusable_config_argument_is_the_callers_error(tmp_path: Path) -> None:
    folder = write_transformer_folder(tmp_path / "t")
    with pytest.raises(InvalidInputError, match="stray"):
        load_transformer(folder, {"stray": 1})


def config_bytes(config: dict[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)


def test_model_saved_by_comfyui_keeps_its_config_among_the_tensors(tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    path, target = tmp_path / "saved.safetensors", tmp_path / "plain.safetensors"
    own = {f"{prefix}latte_config": config_bytes(tiny_config())}
    save_file({**tiny_weights(prefix=prefix), **own}, path)
    assert "heads" not in identify(path).details  # not known before tensors are read
    assert same(load_transformer(path), tiny_weights())
    assert load_transformer(path).config.num_attention_heads == 2
    convert(path, target)
    assert load_transformer(target).config.num_attention_heads == 2


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(5),
        torch.zeros(2**20 + 1, dtype=torch.uint8),
        torch.tensor([91, 93], dtype=torch.uint8),
        config_bytes(tiny_config(num_layers=10**9)),
    ],
    ids=["floats", "endless", "a list", "hostile"],
)
def test_config_tensor_that_holds_no_config_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    path = tmp_path / "saved.safetensors"
    save_file({**tiny_weights(), "latte_config": tensor}, path)
    with pytest.raises(CorruptCheckpointError, match="config"):
        load_transformer(path)


class LeakyLinear(torch.nn.Linear):
    """A layer with a buffer that no file fills."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        empty = torch.empty(1, device=kwargs.get("device"))
        self.register_buffer("cache", empty, persistent=False)


class LeakyOperations:
    Linear = LeakyLinear
    Conv2d = torch.nn.Conv2d


def test_value_that_the_file_does_not_fill_is_never_left_empty(tmp_path: Path) -> None:
    folder = write_transformer_folder(tmp_path / "t")
    with pytest.raises(WeightMismatchError, match="cache without a value"):
        load_transformer(folder, operations=LeakyOperations)


def test_block_compiled_on_its_own_loads(tmp_path: Path) -> None:
    weights = tiny_weights()
    path = tmp_path / "w.safetensors"
    renamed = {key.replace("blocks.0.", "blocks.0._orig_mod."): weights[key] for key in weights}
    save_file(renamed, path, {"config": json.dumps(tiny_config())})
    assert same(load_transformer(path), weights)
