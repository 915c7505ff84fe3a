"""Precision in pipelines, text encoders and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny import text as tiny_text
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from latte_test_support.tiny.text import PROMPTS, WO
from torch import Tensor, nn

from latte_core.checkpoint.lora.writer import write_lora
from latte_core.cli.main import main
from latte_core.errors import InvalidInputError
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state, remove_lora
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.precision.formats import INT8
from latte_core.precision.layers import is_quantised
from latte_core.precision.linear import QuantisedLinear
from latte_core.precision.matmul import has_product
from latte_core.precision.names import UNPACKED
from latte_core.precision.packing import pack
from latte_core.precision.quantize import quantize_text
from latte_core.text.t5 import TextEncoder
from latte_core.text.tokenizer import PromptTokenizer

QUICK = ["--steps", "2", "--device", "cpu", "--frames", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("class") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder = tiny_text.write_spiece_folder(tmp_path_factory.mktemp("tokenizer") / "spiece")
    return PromptTokenizer.from_folder(folder)


def latents(pipeline: Pipeline) -> Tensor:
    return pipeline(PROMPT, **SMALL, output="latents").latents


def write_lora_for(path: Path, model: Any) -> Path:
    settings = LoraSettings(rank=2, alpha=2.0)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws))
    write_lora(path, lora_state(model), settings=settings, base="tiny", steps=1)
    remove_lora(model)
    return path


def test_a_pipeline_opens_quantised_and_repeats_itself(folder: Path) -> None:
    exact = latents(Pipeline.from_pretrained(folder, device="cpu"))
    pipeline = Pipeline.from_pretrained(folder, device="cpu", precision="int8")
    found = latents(pipeline)
    assert is_quantised(pipeline.parts.transformer)
    assert 0 < float((found - exact).abs().max()) < 0.2 * float(exact.abs().max())
    assert torch.equal(latents(pipeline), found)


def test_loras_come_before_the_precision(folder: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    path = write_lora_for(tmp_path / "a.safetensors", pipeline.parts.transformer)
    plain = Pipeline.from_pretrained(folder, device="cpu", precision="int8")
    with pytest.raises(InvalidInputError, match="merge the LoRA, then quantise"):
        plain.load_lora(path)
    pipeline.load_lora(path)
    merged = latents(pipeline)
    pipeline.set_precision("int8")
    error = float((latents(pipeline) - merged).pow(2).mean())
    assert error < 0.1 * float((latents(plain) - merged).pow(2).mean())


def test_sums_in_float16_last_for_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latte_core.precision.settings.check_float16_accumulation", lambda *_: None)
    pipeline = Pipeline.from_pretrained(folder, device="cpu", precision="fp16-acc")
    seen: list[bool] = []

    def note(_: object) -> None:
        seen.append(torch.backends.cuda.matmul.allow_fp16_accumulation)

    pipeline(PROMPT, **SMALL, output="latents", callback=note)
    assert seen == [True] * 3
    assert not torch.backends.cuda.matmul.allow_fp16_accumulation


def test_class_pipelines_take_a_precision(class_folder: Path) -> None:
    pipeline = ClassPipeline.from_pretrained(class_folder, device="cpu", precision="fp8")
    assert is_quantised(pipeline.parts.transformer)
    made = pipeline(1, method="ddim", steps="3", output="latents")
    assert bool(made.latents.isfinite().all())
    with pytest.raises(InvalidInputError, match="stored as fp8 already"):
        pipeline.set_precision("int8")


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_a_text_encoder_in_eight_bits_gives_nearly_the_same_features(
    name: str, tokenizer: PromptTokenizer
) -> None:
    encoder = TextEncoder.from_tensors(tiny_text.t5_tensors(), tokenizer)
    exact = encoder.encode(PROMPTS).embeds
    done = quantize_text(encoder.module, name)
    found = encoder.encode(PROMPTS).embeds
    assert done.bytes_after < 0.4 * done.bytes_before
    layer = encoder.module.get_submodule(WO.removesuffix(".weight"))
    assert isinstance(layer, QuantisedLinear) and layer.backend.name == UNPACKED
    # the features are of unit size; e4m3 errs by 1/40 of a weight on average, int8 by a tenth of it
    assert 0 < float((found - exact).pow(2).mean().sqrt()) < (0.2 if name == "fp8" else 0.03)
    assert encoder.dtype == torch.float32


def test_a_packed_text_encoder_is_read(tokenizer: PromptTokenizer) -> None:
    packed = pack(tiny_text.t5_tensors(), "int8")
    layer = WO.removesuffix(".weight")
    built = TextEncoder.from_tensors(packed, tokenizer)
    expected = packed[WO].float() * packed[f"{layer}.weight_scale"]
    assert torch.equal(built.module.state_dict()[WO], expected)


def test_the_pipeline_stores_its_text_encoder_in_eight_bits(folder: Path) -> None:
    exact = latents(Pipeline.from_pretrained(folder, device="cpu"))
    pipeline = Pipeline.from_pretrained(folder, device="cpu", text_precision="fp8")
    assert not torch.equal(latents(pipeline), exact)
    module: nn.Module = pipeline.parts.text_encoder().module
    assert is_quantised(module) and not is_quantised(pipeline.parts.transformer)
    with pytest.raises(InvalidInputError, match="fp8, int8, int4"):
        Pipeline.from_pretrained(folder, device="cpu", text_precision="int3")


def test_the_command_line_says_in_the_recipe_how_it_multiplied(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.mp4"
    given = ["sample", "--model", str(folder), "--prompt", PROMPT, *QUICK]
    given += ["--precision", "int8", "--text-precision", "fp8", "--output", str(target)]
    assert main(given) == 0
    raw = target.read_bytes()
    text = raw[raw.index(b'{"latte"') :].decode("utf-8", "replace")
    recipe: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    assert (recipe["precision"], recipe["text_precision"]) == ("int8", "fp8")
    is_native = has_product(INT8, torch.device("cpu"))
    assert recipe["precision_product"] == ("int_mm" if is_native else "unpacked")
    assert "32 layers are stored as int8" in capsys.readouterr().out


def test_a_class_model_takes_no_text_precision(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "a.mp4")
    given = ["sample", "--model", str(class_folder), "--class", "red circle", *QUICK]
    assert main([*given, "--text-precision", "fp8", "--output", target]) != 0
    assert "has no text encoder" in capsys.readouterr().err
    assert main([*given, "--precision", "fp16-acc", "--output", target]) != 0
    assert "model is on cpu" in capsys.readouterr().err


def test_weights_without_wide_layers_are_not_packed() -> None:
    weights = tiny_model().state_dict()
    packed = pack(weights, "fp8")
    assert len(packed) == len(weights) + 2 * 32
    with pytest.raises(InvalidInputError, match="nothing to store as fp8"):
        pack({"a.weight": torch.ones(16, 16)}, "fp8")
