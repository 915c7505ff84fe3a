"""Files we read that hold another or an odd model: rows R10-R15 of docs/faults.md."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.malformed import FAMILY_NAMES, torch_bytes, write_hollow
from latte_test_support.tiny.t2v import tiny_config, tiny_model, tiny_weights
from latte_test_support.whole_files import put, whole_file

from latte_core.checkpoint import (
    Family,
    FileKind,
    convert,
    identify,
    load_transformer,
    read_tensors,
    require_family,
    sniff,
    write_safetensors,
)
from latte_core.checkpoint.reading import reader as reader_module
from latte_core.checkpoint.recognition.layout import t2v_layout
from latte_core.config.t2v import LatteT2VConfig
from latte_core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    InvalidInputError,
    LatteError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    WeightMismatchError,
)

# R10


LOADERS = {
    "Latte Model Loader": Family.LATTE_T2V,
    "Latte Text Encoder Loader": Family.T5_ENCODER,
    "Latte VAE Loader": Family.IMAGE_VAE,
    "Latte LoRA Loader": Family.LORA,
}
OPENED = ("LATTE_CLASS", "DIT")  # transformers that `load_transformer` opens beside LATTE_T2V


@pytest.fixture(scope="module")
def family_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """One full-size file per family whose data is a hole: reading it would take gigabytes."""
    folder = tmp_path_factory.mktemp("families")
    names = {**FAMILY_NAMES, "LATTE_T2V": t2v_layout(LatteT2VConfig())}
    return {
        Family[key]: write_hollow(folder / f"{key.lower()}.safetensors", shapes, {})
        for key, shapes in names.items()
    }


@pytest.mark.parametrize("key", [*FAMILY_NAMES, "LATTE_T2V"])
def test_r10_family_is_recognised_from_the_header_in_under_a_second(
    family_files: dict[Family, Path], key: str
) -> None:
    start = time.process_time()
    found = identify(family_files[Family[key]])
    assert time.process_time() - start < 1
    assert found.family is Family[key]
    assert found.is_whole


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("key", [*FAMILY_NAMES, "LATTE_T2V"])
def test_r10_wrong_model_in_a_loader_is_told_where_it_belongs(
    family_files: dict[Family, Path], key: str, loader: str
) -> None:
    family, path = Family[key], family_files[Family[key]]
    if family is LOADERS[loader]:
        require_family(path, LOADERS[loader], "this part of Latte")
        return
    start = time.process_time()
    with pytest.raises(UnknownArchitectureError) as caught:
        require_family(path, LOADERS[loader], "this part of Latte")
    assert time.process_time() - start < 1
    right = next((name for name, wanted in LOADERS.items() if wanted is family), "")
    assert path.name in str(caught.value)
    assert right in str(caught.value)


@pytest.mark.parametrize("key", [key for key in FAMILY_NAMES if key not in OPENED])
def test_r10_transformer_loader_refuses_other_models_before_reading_them(
    family_files: dict[Family, Path], key: str
) -> None:
    start = time.process_time()
    with pytest.raises(UnknownArchitectureError) as caught:
        load_transformer(family_files[Family[key]])
    assert time.process_time() - start < 1
    assert f"This is {Family[key].value}" in str(caught.value)


@pytest.mark.parametrize("key", OPENED)
def test_r10_transformer_loader_opens_these_and_tells_what_is_missing_of_them(
    family_files: dict[Family, Path], key: str
) -> None:
    with pytest.raises(WeightMismatchError, match=r"[0-9]+ missing: .*x_embedder.proj.bias"):
        load_transformer(family_files[Family[key]])


def test_r10_sentence_for_a_text_encoder_is_the_promised_one(
    family_files: dict[Family, Path],
) -> None:
    found = identify(family_files[Family.T5_ENCODER])
    assert found.sentence == "This is a T5 encoder. Use Latte Text Encoder Loader."


# R11


def write_tiny(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    write_safetensors(path, weights, {"config": json.dumps(tiny_config())})
    return path


def test_r11_missing_extra_and_reshaped_weights_are_counted_and_named(tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["proj_out.bias"]
    weights["stray.weight"] = torch.ones(1)
    turned = "caption_projection.linear_1.weight"
    weights[turned] = weights[turned].t().contiguous()
    with pytest.raises(WeightMismatchError) as caught:
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    message = str(caught.value)
    assert "1 missing: proj_out.bias." in message
    assert "1 not expected: stray.weight." in message
    assert f"1 of another shape: {turned} is (24, 16) instead of (16, 24)." in message
    assert "Latte-1: 28 layers, width 1152" in message


def test_r11_only_five_names_of_a_kind_are_listed(tmp_path: Path) -> None:
    weights = tiny_weights()
    gone = [key for key in weights if ".ff." in key][:8]
    for key in gone:
        del weights[key]
    with pytest.raises(WeightMismatchError, match="8 missing: ") as caught:
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    assert sum(key in str(caught.value) for key in gone) == 5


def test_r11_every_parameter_is_read_from_the_file(tmp_path: Path) -> None:
    weights = tiny_weights(seed=3)
    weights["caption_projection.y_embedding"] = torch.randn(120, 24)
    model = load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    found = model.state_dict()
    assert set(found) == set(weights) - {"caption_projection.y_embedding"}
    assert all(torch.equal(found[key], weights[key]) for key in found)
    assert not any(value.is_meta for value in [*model.parameters(), *model.buffers()])


# R12


def test_r12_mixed_types_become_one_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tiny_weights()
    mixed = {
        key: value.half() if "attn" in key else value.to(torch.bfloat16)
        for key, value in weights.items()
    }
    path = write_tiny(tmp_path / "w.safetensors", mixed)
    with caplog.at_level(logging.INFO, "latte"):
        model = load_transformer(path, dtype=None)
    layers = {layer.weight.dtype for layer in model.modules() if hasattr(layer, "weight")}
    assert layers == {torch.float16} or layers == {torch.bfloat16}
    assert "mixes" in caplog.text
    assert str(layers.pop()) in caplog.text


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_r12_whole_number_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tiny_weights()
    weights["proj_out.weight"] = weights["proj_out.weight"].to(dtype)
    with pytest.raises(WeightMismatchError, match=r"proj_out\.weight holds torch\."):
        load_transformer(write_tiny(tmp_path / "w.safetensors", weights))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_r12_plain_fp8_is_unpacked(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {key: value.to(dtype) for key, value in tiny_weights().items()}
    model = load_transformer(write_tiny(tmp_path / "w.safetensors", weights))
    assert all(
        torch.equal(value, weights[key].float()) for key, value in model.state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_r12_types_that_cannot_compute_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights())
    with pytest.raises(InvalidInputError, match="cannot compute"):
        load_transformer(path, dtype=dtype)


# R13


CONTAINERS: dict[str, Any] = {
    "bare": lambda good, other: good,
    "model and ema": lambda good, other: {"model": other, "ema": good, "opt": {"state": {}}},
    "ema only": lambda good, other: {"ema": good},
    "model only": lambda good, other: {"model": good, "step": 7},
    "state_dict": lambda good, other: {"state_dict": good, "epoch": 1},
    "one unknown entry": lambda good, other: {"network": good},
    "ema is empty": lambda good, other: {"ema": None, "model": good},
    "Lightning": lambda good, other: {
        "state_dict": {
            **{f"model.{key}": value for key, value in other.items()},
            **{f"ema.{key}": value for key, value in good.items()},
            "vae.encoder.conv_in.weight": torch.ones(1),
        }
    },
    "nested": lambda good, other: {"model": {"state_dict": good}},
    "Namespace": lambda good, other: {
        "model": other,
        "ema": good,
        "args": argparse.Namespace(lr=1e-4, name="run"),
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_r13_every_container_gives_its_weights_and_averaged_ones_first(
    tmp_path: Path, container: str, is_zip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = tiny_weights(seed=1), tiny_weights(seed=2)
    path = put(tmp_path, "t2v.pt", torch_bytes(CONTAINERS[container](good, other), is_zip=is_zip))
    allowed = set(torch.serialization.get_safe_globals())
    with caplog.at_level(logging.INFO, "latte"):
        model = load_transformer(path, tiny_config())
    assert all(torch.equal(value, good[key]) for key, value in model.state_dict().items())
    assert set(torch.serialization.get_safe_globals()) == allowed
    has_both = container in ("model and ema", "ema only", "Lightning", "Namespace")
    assert ("averaged (EMA)" in caplog.text) == has_both


def test_r13_other_leftovers_are_refused_by_name(tmp_path: Path) -> None:
    content = {"model": tiny_weights(), "part": Fraction(1, 2)}
    with pytest.raises(UnsafeCheckpointError, match=r"fractions\.Fraction.*torch\.save"):
        read_tensors(put(tmp_path, "w.pt", torch_bytes(content)))


@pytest.mark.parametrize("content", [{}, {"step": 3}, {"model": {}}, [1, 2], 5, {"a": {"b": 1}}])
def test_r13_container_without_tensors_is_told(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CorruptCheckpointError, match="no tensors"):
        read_tensors(put(tmp_path, "w.pt", torch_bytes(content)))


# R14


HOSTILE = [0, -1, 10**9, 1.5, "16", None, True, [2], float("inf")]
SETTINGS_NAMES = ["num_layers", "attention_head_dim", "patch_size", "caption_channels"]


@pytest.mark.parametrize("name", SETTINGS_NAMES)
@pytest.mark.parametrize("value", HOSTILE)
def test_r14_hostile_config_in_the_file_is_refused_at_once(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tiny_weights(), {"config": json.dumps(tiny_config(**{name: value}))})
    start = time.process_time()
    with pytest.raises(CheckpointError):
        load_transformer(path)
    identify(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("value", HOSTILE)
def test_r14_hostile_config_beside_the_file_or_given_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, tiny_weights())
    bad = tiny_config(num_layers=value)
    with pytest.raises(LatteError):
        load_transformer(path, bad)
    (tmp_path / "config.json").write_text(json.dumps(bad))
    with pytest.raises(CheckpointError):
        load_transformer(path)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"num_layers": ' + "9" * 5000 + "}"])
def test_r14_config_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.safetensors"
    data = tiny_weights()
    write_safetensors(path, data, {"config": text[:60_000]})
    with pytest.raises(CorruptCheckpointError):
        load_transformer(path)
    write_safetensors(path, data)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        load_transformer(path)


# R15


@pytest.mark.skipif(os.name == "nt", reason="links as on Unix")
def test_r15_conversion_never_writes_over_its_source(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights())
    before = path.read_bytes()
    soft, hard = tmp_path / "soft.safetensors", tmp_path / "hard.safetensors"
    soft.symlink_to(path)
    hard.hardlink_to(path)
    roundabout = tmp_path / "nowhere" / ".." / "w.safetensors"
    (tmp_path / "nowhere").mkdir()
    for target in (path, soft, hard, roundabout):
        with pytest.raises(InvalidInputError, match="never overwritten"):
            convert(path, target)
    with pytest.raises(InvalidInputError, match="never overwritten"):
        convert(soft, path)
    assert path.read_bytes() == before
    assert soft.is_symlink()


def test_r15_file_that_vanishes_between_looking_and_reading_is_told(tmp_path: Path) -> None:
    for form in ("safetensors", "zip"):
        path = put(tmp_path, "w.bin", whole_file(form))
        assert sniff(path) in (FileKind.SAFETENSORS, FileKind.TORCH_ZIP)
        path.unlink()
        with pytest.raises(CheckpointError, match="not found"):
            read_tensors(path)


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_r15_file_that_vanishes_while_being_read_is_told(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "w.pt", whole_file(form))
    describe = reader_module.describe

    def describe_and_delete(*arguments: Any) -> Any:
        result = describe(*arguments)
        path.unlink()
        return result

    monkeypatch.setattr(reader_module, "describe", describe_and_delete)
    with pytest.raises(CheckpointError, match="vanished"):
        read_tensors(path)


def test_r15_model_stays_usable_after_its_file_is_deleted(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "w.safetensors", tiny_weights(seed=5))
    model = load_transformer(path)
    path.unlink()
    expected = tiny_model(seed=5).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
