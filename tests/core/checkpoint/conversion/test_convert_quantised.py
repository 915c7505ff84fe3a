"""Writing quantised files: what is in them, and what reading them back gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.latte import tiny_latte, write_latte_folder
from latte_test_support.tiny.t2v import tiny_model, tiny_weights, write_transformer_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from latte_core.checkpoint import convert, dequantize, load_transformer
from latte_core.checkpoint.recognition.detect import config_in_tensor
from latte_core.checkpoint.writing.gguf_writer import GGUF_TYPES
from latte_core.cli.main import main
from latte_core.errors import (
    InvalidInputError,
    MissingDependencyError,
    UnknownArchitectureError,
)
from latte_core.precision.layers import is_target
from latte_core.precision.quantize import quantize

LAYER = "transformer_blocks.0.attn1.to_q"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_transformer_folder(tmp_path / "transformer")


def is_packed(name: str, value: Tensor) -> bool:
    layer = name.removesuffix(".weight")
    return layer != name and value.dim() == 2 and is_target(layer, *value.shape)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_a_packed_file_holds_what_comfyui_expects(name: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    convert(source, target, quantize=name)
    found, plain = load_file(target), tiny_weights()
    form = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}[name]
    for key, value in plain.items():
        if not is_packed(key, value):
            assert torch.equal(found[key], value), key
            continue
        layer = key.removesuffix(".weight")
        mark = json.loads(found[f"{layer}.comfy_quant"].numpy().tobytes())
        scale = found[f"{layer}.weight_scale"]
        assert mark == {"format": form}
        assert scale.dtype == torch.float32
        assert tuple(scale.shape) == (() if name == "fp8" else (len(value), 1))
        step = value.abs() / 16 + scale * 2**-9 if name == "fp8" else 0.51 * scale
        assert bool(((found[key].float() * scale - value).abs() <= step).all()), key
    assert len(found) == len(plain) + 2 * 32


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_a_packed_file_loads_and_quantises_to_the_same_numbers(
    name: str, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "small.safetensors"
    convert(source, target, quantize=name)
    loaded = load_transformer(target)
    stored = load_file(target)
    weight = loaded.get_submodule(LAYER).weight
    assert torch.equal(weight, stored[f"{LAYER}.weight"].float() * stored[f"{LAYER}.weight_scale"])
    quantize(loaded, name)
    layer: Any = loaded.get_submodule(LAYER)
    assert torch.equal(layer.unpacked(torch.float32), weight) or name == "int8"
    assert torch.allclose(layer.unpacked(torch.float32), weight, rtol=1e-6)


def test_a_packed_file_is_smaller_and_can_be_unpacked(source: Path, tmp_path: Path) -> None:
    small, back = tmp_path / "small.safetensors", tmp_path / "back.safetensors"
    convert(source, small, quantize="int8")
    convert(small, back, dtype=torch.float32)
    assert set(load_file(back)) == set(tiny_weights())
    assert torch.allclose(
        load_file(back)[f"{LAYER}.weight"], tiny_weights()[f"{LAYER}.weight"], atol=0.01
    )


def test_a_class_model_and_a_text_encoder_are_packed(tmp_path: Path) -> None:
    folder, small = write_latte_folder(tmp_path / "class"), tmp_path / "class.safetensors"
    convert(folder, small, quantize="fp8")
    assert load_file(small)["blocks.0.mlp.fc1.weight"].dtype == torch.float8_e4m3fn
    assert load_transformer(small).config == tiny_latte().config
    text, packed = tmp_path / "t5.safetensors", tmp_path / "t5_int8.safetensors"
    save_file({key: value.contiguous() for key, value in tiny_text.t5_tensors().items()}, text)
    convert(text, packed, quantize="int8")
    assert load_file(packed)[tiny_text.WO].dtype == torch.int8
    assert load_file(packed)["shared.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    "mark",
    [
        {"format": "convrot_w4a4"},
        {"format": "int8_tensorwise", "convrot": True},
        {"format": "int8_tensorwise", "params": {"convrot": True}},
        [],
    ],
)
def test_other_numbers_in_int8_are_refused(mark: Any) -> None:
    given = {
        "a.weight": torch.ones(4, 2, dtype=torch.int8),
        "a.weight_scale": torch.ones(4, 1),
        "a.comfy_quant": torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8),
    }
    with pytest.raises(UnknownArchitectureError, match=r"a\.weight has type torch\.int8"):
        dequantize("w.safetensors", given, torch.float32)
    del given["a.comfy_quant"]
    with pytest.raises(UnknownArchitectureError, match=r"a\.weight has type torch\.int8"):
        dequantize("w.safetensors", given, torch.float32)


# Half a step of each type, in parts of the largest magnitude of its block of 32; 4 and 5 bits with
# an offset have 15 and 31 steps from the smallest to the largest number.
HALF_STEPS = {"Q8_0": 1 / 254, "Q5_1": 2 / 62, "Q5_0": 1 / 16, "Q4_1": 2 / 30, "Q4_0": 1 / 8}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A transformer whose layers have rows of 32 numbers."""
    folder = tmp_path_factory.mktemp("wide")
    model = tiny_model(attention_head_dim=16, cross_attention_dim=32)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder, weights


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_gguf_reads_back_within_half_a_step(
    kind: str, wide: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="the optional package gguf")
    folder, weights = wide
    target = tmp_path / "small.gguf"
    done = convert(folder, target, quantize=kind)
    assert done.num_bytes == target.stat().st_size
    reader = gguf.GGUFReader(target)
    assert reader.get_field("general.architecture").contents() == "ltxv"
    found = {one.name: one for one in reader.tensors}
    assert set(found) == {*weights, "latte_config"}
    config = config_in_tensor(torch.tensor(found["latte_config"].data))
    assert config["num_attention_heads"] == 2
    for name, value in weights.items():
        stored = found[name]
        assert [int(one) for one in reversed(stored.shape)] == list(value.shape), name
        type_name = stored.tensor_type.name
        numbers = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).copy())
        error = (numbers.view(value.shape) - value).abs()
        if not is_packed(name, value):
            assert type_name == ("F32" if value.dim() == 1 or "table" in name else type_name)
            assert bool((error <= value.abs() * 2**-11 + 1e-7).all()), name
            continue
        assert type_name == kind, name
        if kind not in HALF_STEPS:
            half = {"BF16": 2**-8, "F16": 2**-11, "F32": 0.0}[kind]
            assert bool((error <= half * (value.abs() + 1e-3)).all()), name  # subnormal ones too
            continue
        largest = value.view(-1, 32).abs().amax(1, keepdim=True)
        # scales are float16, 2^-11 of which reaches the largest number of up to 127 steps
        bound = largest * (HALF_STEPS[kind] + 2**-10)
        assert bool((error.view(-1, 32) <= bound).all()), name


def test_gguf_keeps_the_shape_of_tensors_with_five_axes(tmp_path: Path) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="the optional package gguf")
    model = tiny_latte(tubelet_size=2, num_frames=4)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, tmp_path / "c.safetensors", {"config": json.dumps(model.config.to_dict())})
    convert(tmp_path / "c.safetensors", tmp_path / "c.gguf")
    field = gguf.GGUFReader(tmp_path / "c.gguf").get_field(
        "comfy.gguf.orig_shape.x_embedder.proj.weight"
    )
    assert field.contents() == list(weights["x_embedder.proj.weight"].shape)


def test_a_missing_gguf_is_named_and_nothing_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match="pip install gguf"):
        convert(source, tmp_path / "small.gguf")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize(
    ("target", "name", "words"),
    [
        ("a.safetensors", "Q8_0", "takes fp8, int8 or int4"),
        ("a.gguf", "fp8", "takes Q8_0"),
        ("a.bin", None, "only .safetensors files"),
    ],
)
def test_formats_and_targets_that_do_not_fit_are_refused(
    target: str, name: str | None, words: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        convert(source, tmp_path / target, quantize=name)
    assert not (tmp_path / target).exists()


def test_a_part_that_nobody_reads_quantised_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "t5.safetensors"
    save_file({key: value.contiguous() for key, value in tiny_text.t5_tensors().items()}, text)
    pytest.importorskip("gguf", reason="the optional package gguf")
    with pytest.raises(InvalidInputError, match="text encoder cannot be written as GGUF"):
        convert(text, tmp_path / "t5.gguf")


def test_the_command_line_writes_quantised_files(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "small.safetensors"
    assert main(["convert", str(source), str(target), "--quantize", "int8"]) == 0
    assert "Wrote small.safetensors" in capsys.readouterr().out
    assert load_file(target)[f"{LAYER}.weight"].dtype == torch.int8
