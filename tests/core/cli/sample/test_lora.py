"""`sample --lora`, and the method of the pipelines behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from safetensors.torch import save_file

from latte_core.checkpoint.lora.writer import write_lora
from latte_core.cli.main import main
from latte_core.cli.sample.lora import lora_of
from latte_core.errors import (
    CheckpointError,
    IncompatibleInputsError,
    InvalidInputError,
    UnknownArchitectureError,
)
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state, remove_lora
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.video import read_video, write_video

QUICK = ["--steps", "2", "--device", "cpu", "--frames", "2"]
ALL: Any = ("attention", "cross_attention", "feed_forward")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("class") / "tiny")


def make_lora(path: Path, model: Any, seed: int = 0) -> Path:
    """Write a LoRA of random numbers for a model."""
    settings = LoraSettings(rank=2, alpha=2.0, targets=ALL)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws))
    write_lora(path, lora_state(model), settings=settings, base="tiny", steps=1)
    remove_lora(model)
    return path


def open_text(folder: Path) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu")


def open_class(folder: Path) -> ClassPipeline:
    return ClassPipeline.from_pretrained(folder, device="cpu")


def text_latents(pipeline: Pipeline) -> torch.Tensor:
    return pipeline(PROMPT, output="latents", **SMALL).latents


def class_latents(pipeline: ClassPipeline) -> torch.Tensor:
    return pipeline(2, steps="2", output="latents").latents


def test_text_pipeline_loads_and_removes_loras(text_folder: Path, tmp_path: Path) -> None:
    pipeline = open_text(text_folder)
    before = text_latents(pipeline)
    first = make_lora(tmp_path / "a.safetensors", pipeline.parts.transformer, 1)
    second = make_lora(tmp_path / "b.safetensors", pipeline.parts.transformer, 2)
    one = pipeline.load_lora(first, 0.5)
    alone = text_latents(pipeline)
    two = pipeline.load_lora(str(second))
    both = text_latents(pipeline)
    assert not torch.allclose(alone, before) and not torch.allclose(both, alone)
    two.remove()
    assert torch.equal(text_latents(pipeline), alone)
    one.remove()
    assert torch.equal(text_latents(pipeline), before)


def test_class_pipeline_loads_and_removes_loras(class_folder: Path, tmp_path: Path) -> None:
    pipeline = open_class(class_folder)
    before = class_latents(pipeline)
    path = make_lora(tmp_path / "a.safetensors", pipeline.parts.transformer)
    handle = pipeline.load_lora(path, -1)
    assert not torch.allclose(class_latents(pipeline), before)
    handle.remove()
    assert torch.equal(class_latents(pipeline), before)


def test_lora_of_another_model_or_no_lora_is_refused(
    text_folder: Path, class_folder: Path, tmp_path: Path
) -> None:
    pipeline, other = open_text(text_folder), open_class(class_folder)
    path = make_lora(tmp_path / "class.safetensors", other.parts.transformer)
    with pytest.raises(UnknownArchitectureError, match="class.safetensors changes no layer"):
        pipeline.load_lora(path)
    with pytest.raises(UnknownArchitectureError, match="cannot be used as a LoRA"):
        pipeline.load_lora(text_folder / "transformer")
    with pytest.raises(CheckpointError, match="gone.safetensors"):
        pipeline.load_lora(tmp_path / "gone.safetensors")
    with pytest.raises(InvalidInputError, match="strength"):
        other.load_lora(path, float("nan"))
    start = "diffusion_model.blocks.0.attn.qkv."
    narrow = {f"{start}lora_A.weight": torch.ones(1, 8), f"{start}lora_B.weight": torch.ones(48, 1)}
    save_file(narrow, tmp_path / "narrow.safetensors")
    with pytest.raises(IncompatibleInputsError, match="8 columns in the LoRA and 16 in the model"):
        other.load_lora(tmp_path / "narrow.safetensors")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0)),
        (r"C:\loras\a.safetensors:2", (r"C:\loras\a.safetensors", 2.0)),
        ("a:b", ("a:b", 1.0)),
        (":1", (":1", 1.0)),
    ],
)
def test_strength_stands_behind_the_last_colon(text: str, expected: tuple[str, float]) -> None:
    assert lora_of(text) == expected


def test_existing_file_with_a_colon_in_its_name_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "take:2"
    path.write_bytes(b"")
    assert lora_of(str(path)) == (str(path), 1.0)


def recipe_in(path: Path) -> dict[str, Any]:
    """Return the comment of an mp4 file."""
    raw = path.read_bytes()
    text = raw[raw.index(b'{"latte"') :].decode("utf-8", "replace")
    return json.JSONDecoder().raw_decode(text)[0]


def test_command_makes_what_the_library_makes_with_both_loras(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = open_text(text_folder)
    first = make_lora(tmp_path / "a.safetensors", pipeline.parts.transformer, 1)
    second = make_lora(tmp_path / "b.safetensors", pipeline.parts.transformer, 2)
    plain, path = tmp_path / "plain.mp4", tmp_path / "clip.mp4"
    command = ["sample", "--model", str(text_folder), *QUICK, "--prompt", PROMPT]
    assert main([*command, "--output", str(plain)]) == 0
    loras = ["--lora", f"{first}:0.5", "--lora", str(second)]
    assert main([*command, "--output", str(path), *loras]) == 0
    assert "LoRA a.safetensors: 32 layers, strength 0.5." in capsys.readouterr().out

    pipeline.load_lora(first, 0.5)
    pipeline.load_lora(second)
    result = pipeline(PROMPT, num_frames=2, num_steps=2)
    assert result.frames is not None
    expected = write_video(tmp_path / "expected.mp4", result.frames)
    assert torch.equal(read_video(path).frames, read_video(expected).frames)
    assert not torch.equal(read_video(path).frames, read_video(plain).frames)
    assert recipe_in(path)["loras"] == ["a.safetensors:0.5", "b.safetensors:1"]
    assert "loras" not in recipe_in(plain)


def test_folder_of_a_class_model_is_not_gone_on_with_without_its_lora(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = make_lora(tmp_path / "a.safetensors", open_class(class_folder).parts.transformer)
    command = ["sample", "--model", str(class_folder), *QUICK, "--class", "1"]
    command += ["--output-dir", str(tmp_path / "videos")]
    assert main([*command, "--num", "1", "--lora", str(lora)]) == 0
    assert main([*command, "--num", "2", "--lora", f"{lora}:1"]) == 0
    assert main([*command, "--num", "3"]) == 2
    assert "loras was ['a.safetensors:1'], but is None now" in capsys.readouterr().err
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2


def test_lora_that_does_not_fit_is_one_sentence(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--model", str(text_folder), *QUICK, "--prompt", PROMPT]
    lora = text_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert main([*command, "--output", str(tmp_path / "a.mp4"), "--lora", str(lora)]) == 2
    assert "cannot be used as a LoRA" in capsys.readouterr().err
    assert not (tmp_path / "a.mp4").exists()
