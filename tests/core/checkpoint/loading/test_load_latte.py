"""Every layout in which people have a Latte with or without classes loads to the same model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import torch_bytes
from latte_test_support.tiny.latte import (
    IMAGE,
    NO_CLASSES,
    TEXT,
    tiny_latte,
    tiny_latte_config,
    tiny_latte_weights,
    write_latte_folder,
)
from latte_test_support.tiny.t2v import tiny_config, tiny_weights
from safetensors.torch import save_file
from torch import Tensor

from latte_core.checkpoint import load_transformer
from latte_core.checkpoint.loading.loader import load_t2v
from latte_core.config.latte import LatteConfig
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import (
    CorruptCheckpointError,
    InvalidInputError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    WeightMismatchError,
)
from latte_core.model.latte.transformer import Latte
from latte_core.model.t2v.transformer import LatteT2V

NATIVE = "model.diffusion_model."
HEADS = {"num_heads": 2}
OTHER = {"opt": {"state": {}}, "args": None}


def same(model: torch.nn.Module, weights: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return set(found) == set(weights) and all(
        torch.equal(found[key], value) for key, value in weights.items()
    )


def config_bytes(config: dict[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)


def metadata(**changes: Any) -> dict[str, str]:
    config = LatteConfig.from_dict(tiny_latte_config(**changes))
    return {"config": json.dumps(config.to_dict())}


def lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint of the reference's Lightning training, averaged weights among the others."""
    plain = {f"model.{key}": value + 1 for key, value in weights.items()}
    averaged = {f"ema.{key}": value for key, value in weights.items()}
    vae = {"vae.decoder.conv_in.weight": torch.ones(2)}
    return {"state_dict": {**plain, **averaged, **vae}, "epoch": 3}


def compiled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"_orig_mod.{key}": value for key, value in weights.items()}


def more(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value + 1 for key, value in weights.items()}


PICKLES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda w: w,
    "ema": lambda w: {"ema": w},
    "model": lambda w: {"model": w, **OTHER},
    "model and ema": lambda w: {"model": more(w), "ema": w, **OTHER},
    "state_dict": lambda w: {"state_dict": w},
    "Lightning": lightning,
    "compiled": compiled,
    "compiled in ema": lambda w: {"ema": compiled(w)},
    "module.": lambda w: {f"module.{key}": value for key, value in w.items()},
    "module._orig_mod.": lambda w: {f"module._orig_mod.{key}": value for key, value in w.items()},
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("layout", PICKLES)
def test_every_layout_of_a_pickle_loads(tmp_path: Path, layout: str, is_zip: bool) -> None:
    weights = tiny_latte_weights()
    path = tmp_path / "ucf101.pt"
    path.write_bytes(torch_bytes(PICKLES[layout](weights), is_zip=is_zip))
    model = load_transformer(path, HEADS)
    assert isinstance(model, Latte)
    assert same(model, weights)


@pytest.mark.parametrize("prefix", ["", NATIVE, "module.", "_orig_mod.", "ema.", "model."])
def test_prefixed_safetensors_with_metadata_loads(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(prefix=prefix), path, metadata())
    assert same(load_transformer(path), tiny_latte_weights())


def test_folder_with_its_config_loads_from_any_level(tmp_path: Path) -> None:
    weights = tiny_latte_weights()
    inner = write_latte_folder(tmp_path / "model" / "transformer")
    for path in (inner, inner.parent, inner / "diffusion_pytorch_model.safetensors", str(inner)):
        assert same(load_transformer(path), weights)


def test_config_of_a_model_saved_by_comfyui_is_read_from_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    own = {f"{NATIVE}latte_config": config_bytes(tiny_latte_config(variant=2))}
    save_file({**tiny_latte_weights(prefix=NATIVE), **own}, path)
    model = load_transformer(path)
    assert same(model, tiny_latte_weights())
    assert model.config == LatteConfig.from_dict(tiny_latte_config(variant=2))
    save_file({**tiny_latte_weights(), "latte_config": torch.zeros(3)}, path)
    with pytest.raises(CorruptCheckpointError, match="latte_config"):
        load_transformer(path)


def test_published_width_needs_no_config(tmp_path: Path) -> None:
    config = LatteConfig.preset("Latte-S/2", depth=2, input_size=8, num_frames=2)
    original = Latte.from_config(config)
    path = tmp_path / "ffs_s_2.pt"
    path.write_bytes(torch_bytes({"ema": original.state_dict()}))
    model = load_transformer(path)
    assert model.config == config
    assert same(model, original.state_dict())


VARIETIES: dict[str, dict[str, Any]] = {
    "class": {},
    "unconditional": NO_CLASSES,
    "text": TEXT,
    "image": IMAGE,
    "late": {"variant": 2},
    "split": {"variant": 3},
    "parallel": {"variant": 4},
    "tubelets": {"tubelet_size": 3},
    "tokens": {"injection": "tokens"},
    "rotary": {"temporal_positions": "rotary"},
    "noise alone": {"learn_sigma": False},
    "always a class": {"class_dropout_prob": 0.0},
}


@pytest.mark.parametrize("variety", VARIETIES)
def test_loaded_model_gives_what_the_original_gave(tmp_path: Path, variety: str) -> None:
    changes = VARIETIES[variety]
    original = tiny_latte(7, **changes)
    path = tmp_path / "w.safetensors"
    save_file(original.state_dict(), path, metadata(**changes))
    model = load_transformer(path)
    assert isinstance(model, Latte)
    assert model.config == original.config
    assert not model.training

    latents, timesteps = torch.randn(2, 4, 3, 8, 6), torch.tensor([3, 700])
    labels = torch.tensor([1, 4]) if model.config.conditioning == "class" else None
    text = torch.randn(2, 24) if model.config.conditioning == "clip_text" else None
    with torch.no_grad():
        found = model(latents, timesteps, labels, text_embedding=text)
        expected = original(latents, timesteps, labels, text_embedding=text)
    assert torch.equal(found, expected)
    assert found.abs().max() > 0.1


def test_given_config_may_be_a_record_or_the_references_settings(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes(tiny_latte_weights()))
    record = LatteConfig.from_dict(tiny_latte_config(class_dropout_prob=0.25))
    assert load_transformer(path, record).config == record
    reference = {"extras": 2, "num_classes": 5, "num_heads": 2, "learn_sigma": True, "depth": 4}
    assert load_transformer(path, reference).config.conditioning == "class"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layers_have_the_type_asked_for_and_tables_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = load_transformer(write_latte_folder(tmp_path / "t"), dtype=dtype)
    assert isinstance(model, Latte)
    assert model.final_layer.linear.weight.dtype == dtype
    assert model.blocks[1].attn.qkv.bias.dtype == dtype
    assert torch.equal(model.pos_embed, tiny_latte().pos_embed)
    assert torch.equal(model.temp_embed, tiny_latte().temp_embed)
    assert not model.temp_embed.requires_grad


def test_float32_tables_beside_half_weights_are_no_mix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    weights = tiny_latte(0).to(torch.float16).state_dict()
    tables = {key: value.float() for key, value in weights.items() if key.endswith("_embed")}
    save_file({**weights, **tables}, path, metadata())
    with caplog.at_level(logging.WARNING, "latte"):
        model = load_transformer(path, dtype=None)
    assert model.state_dict()["final_layer.linear.weight"].dtype == torch.float16
    assert "mixes" not in caplog.text


def test_variant_1_becomes_2_only_when_asked_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(), path, metadata())
    with caplog.at_level(logging.WARNING, "latte"):
        assert load_transformer(path).config.variant == 1
        assert "variant" not in caplog.text
        assert load_transformer(path, {"variant": 2}).config.variant == 2
    assert "w.safetensors: It holds weights of variant 1, and they are used as" in caplog.text


def test_bare_weights_asked_to_be_variant_2_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes(tiny_latte_weights()))
    with caplog.at_level(logging.WARNING, "latte"):
        assert load_transformer(path, {**HEADS, "variant": 2}).config.variant == 2
    assert "variant 1, as far as it says, and they are used as variant 2" in caplog.text


def test_variant_that_the_file_or_its_folder_states_is_used_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(variant=2), path, metadata(variant=2))
    folder = write_latte_folder(tmp_path / "t", variant=2)
    with caplog.at_level(logging.WARNING, "latte"):
        assert load_transformer(path).config.variant == 2
        assert load_transformer(folder).config.variant == 2
        assert load_transformer(folder, HEADS).config.variant == 2
    assert not caplog.text


def test_unknown_head_count_is_asked_for_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(torch_bytes(tiny_latte_weights()))
    with pytest.raises(WeightMismatchError, match=r"width 16.*Give num_heads in a config"):
        load_transformer(path)


def test_missing_unknown_and_misshapen_weights_are_counted_and_named(tmp_path: Path) -> None:
    weights = tiny_latte_weights()
    del weights["blocks.3.mlp.fc2.bias"], weights["t_embedder.mlp.2.weight"]
    weights["blocks.0.stray"] = torch.ones(1)
    weights["blocks.0.attn.proj.weight"] = torch.ones(16, 8)
    path = tmp_path / "w.safetensors"
    save_file(weights, path, metadata())
    with pytest.raises(WeightMismatchError) as caught:
        load_transformer(path)
    text = str(caught.value)
    assert "w.safetensors does not fit a class-conditional Latte (4 blocks, width 16" in text
    assert "2 missing: t_embedder.mlp.2.weight, blocks.3.mlp.fc2.bias." in text
    assert "1 not expected: blocks.0.stray." in text
    assert "1 of another shape: blocks.0.attn.proj.weight is (16, 8) instead of (16, 16)" in text
    assert "nearest known size is Latte-S: 12 blocks, width 384, 6 heads" in text


@pytest.mark.parametrize(
    "name", ["final_layer.linear.weight", "pos_embed", "blocks.2.attn.qkv.bias"]
)
def test_any_missing_weight_is_named(tmp_path: Path, name: str) -> None:
    weights = tiny_latte_weights()
    del weights[name]
    path = tmp_path / "w.safetensors"
    save_file(weights, path, metadata())
    with pytest.raises(WeightMismatchError, match=f"1 missing: {name}"):
        load_transformer(path)


def test_video_model_without_its_temporal_table_is_not_run_as_an_image_model(
    tmp_path: Path,
) -> None:
    weights = tiny_latte_weights()
    del weights["temp_embed"]
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    with pytest.raises(WeightMismatchError, match=r"no temp_embed.*has_temporal"):
        load_transformer(path, HEADS)
    save_file(weights, path, metadata())
    with pytest.raises(WeightMismatchError, match="1 missing: temp_embed"):
        load_transformer(path)


def dit_weights() -> dict[str, Tensor]:
    return tiny_latte_weights(num_classes=1000, **IMAGE)


@pytest.mark.parametrize(
    ("weights", "title"),
    [
        (tiny_latte_weights(), "a class-conditional Latte (4 blocks, width 16, patch 2) with 5"),
        (tiny_latte_weights(**NO_CLASSES), "an unconditional Latte (4 blocks"),
        (dit_weights(), "a DiT (4 blocks, width 16, patch 2) image model with 1000 classes"),
    ],
    ids=["class", "unconditional", "DiT"],
)
def test_other_model_where_text_to_video_is_wanted_is_named(
    tmp_path: Path, weights: dict[str, Tensor], title: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    with pytest.raises(UnknownArchitectureError) as caught:
        load_t2v(path)
    text = str(caught.value)
    assert text.startswith("w.safetensors cannot be used as a text-to-video transformer. This is ")
    assert title in text
    assert "Use Latte Model Loader with Latte" in text


def test_text_to_video_models_still_load_as_such(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_weights(), path, {"config": json.dumps(tiny_config())})
    assert isinstance(load_transformer(path), LatteT2V)
    assert isinstance(load_t2v(path), LatteT2V)


def test_dit_loads_as_an_image_model(tmp_path: Path) -> None:
    path = tmp_path / "DiT-XL-2-256x256.pt"
    path.write_bytes(torch_bytes(dit_weights()))
    model = load_transformer(path, HEADS)
    assert isinstance(model, Latte)
    assert same(model, dit_weights())
    assert (model.config.has_temporal, model.config.num_classes) == (False, 1000)
    frames, labels = torch.randn(1, 4, 3, 8, 8), torch.tensor([207])
    with torch.no_grad():
        clip = model(frames, torch.tensor([500]), labels)
        alone = model(frames[:, :, 1:2], torch.tensor([500]), labels)
    torch.testing.assert_close(clip[:, :, 1:2], alone, atol=1e-5, rtol=0)


def test_config_of_the_other_transformer_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(), path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    with caplog.at_level(logging.WARNING, "latte"):
        assert same(load_transformer(path, HEADS), tiny_latte_weights())
    assert "LatteTransformer3DModel and is not used" in caplog.text
    with pytest.raises(InvalidInputError, match="unknown key"):
        load_transformer(path, LatteT2VConfig())


def test_config_beside_that_cannot_be_used_is_said_to_lie_there(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny_latte_weights(), path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_latte_config(stray=1)))
    with pytest.raises(CorruptCheckpointError, match=r"config beside w\.safetensors.*stray"):
        load_transformer(path)


def test_hostile_pickle_of_a_class_model_is_not_opened(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "ucf101.pt"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (eval, (f"open({str(marker)!r}, 'w').close()",))

    path.write_bytes(torch_bytes({"ema": tiny_latte_weights(), "note": Payload()}))
    with pytest.raises(UnsafeCheckpointError):
        load_transformer(path, HEADS)
    assert not marker.exists()
