"""Pipelines that know a prompt already: no text encoder is loaded, and every bit is the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL
from safetensors.torch import load_file, save_file

from latte_core.cli.main import main
from latte_core.errors import InvalidInputError
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.text.t5 import TextEncoder

LATENTS: dict[str, Any] = {**SMALL, "output": "latents"}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that text encoders were loaded from."""
    seen: list[Path] = []
    real = TextEncoder.from_folder.__func__

    def from_folder(cls: Any, folder: Any, **options: Any) -> TextEncoder:
        seen.append(Path(folder))
        return real(cls, folder, **options)

    monkeypatch.setattr(TextEncoder, "from_folder", classmethod(from_folder))
    return seen


def open_with(folder: Path, cache: str | Path, **options: Any) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu", embedding_cache=cache, **options)


def test_second_process_loads_no_text_encoder_and_makes_the_same_bits(
    folder: Path, tmp_path: Path, loads: list[Path]
) -> None:
    first = open_with(folder, tmp_path)(PROMPT, "blurry", **LATENTS).latents
    assert len(loads) == 1
    second = open_with(folder, tmp_path)(PROMPT, "blurry", **LATENTS).latents
    assert len(loads) == 1
    assert torch.equal(first, second)


def test_default_keeps_prompts_for_the_pipelines_life_and_writes_nothing(
    folder: Path, tmp_path: Path, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTE_CACHE_DIR", str(tmp_path))
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    encoder = pipeline.parts.text_encoder()
    calls: list[int] = []
    encoder.module.register_forward_hook(lambda *_: calls.append(1))
    first = pipeline(PROMPT, **LATENTS).latents
    assert len(calls) == 1  # for both prompts
    assert torch.equal(pipeline(PROMPT, **LATENTS).latents, first)
    pipeline("a fish", **LATENTS)
    assert len(calls) == 2  # the empty negative is known
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_cache_changes_nothing_but_rounding(folder: Path, cache: str) -> None:
    prompts = [PROMPT, "two fish"]
    off = open_with(folder, "off")(prompts, "blurry", **LATENTS).latents
    found = open_with(folder, cache)(prompts, "blurry", **LATENTS).latents
    assert (found - off).abs().max() <= 1e-5


def test_off_encodes_each_time(folder: Path) -> None:
    pipeline = open_with(folder, "off")
    calls: list[int] = []
    pipeline.parts.text_encoder().module.register_forward_hook(lambda *_: calls.append(1))
    pipeline(PROMPT, **LATENTS)
    pipeline(PROMPT, **LATENTS)
    assert len(calls) == 2


def test_disk_uses_the_folder_of_the_environment(
    folder: Path, tmp_path: Path, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTE_CACHE_DIR", str(tmp_path / "mine"))
    open_with(folder, "disk")(PROMPT, **LATENTS)
    open_with(folder, "disk")(PROMPT, **LATENTS)
    assert len(loads) == 1
    assert len(list((tmp_path / "mine" / "embeddings").iterdir())) == 2


def change_weights(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    tensors = load_file(path)
    tensors["encoder.final_layer_norm.weight"] *= 1.5
    save_file(tensors, path)
    os.utime(path, ns=times)


def change_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("change", [change_weights, change_tokenizer])
def test_changed_encoder_or_tokenizer_is_asked_again(
    folder: Path, tmp_path: Path, loads: list[Path], change: Any
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    open_with(other, tmp_path / "cache")(PROMPT, **LATENTS)
    change(other)
    found = open_with(other, tmp_path / "cache")(PROMPT, **LATENTS).latents
    assert len(loads) == 2
    assert torch.equal(found, open_with(other, "memory")(PROMPT, **LATENTS).latents)


def test_another_dtype_is_another_prompt(folder: Path, tmp_path: Path, loads: list[Path]) -> None:
    open_with(folder, tmp_path)(PROMPT, **LATENTS)
    open_with(folder, tmp_path, dtype=torch.bfloat16)(PROMPT, **LATENTS)
    assert len(loads) == 2


def test_cleaning_decides_which_prompt_it_is(
    folder: Path, tmp_path: Path, loads: list[Path]
) -> None:
    typed = "A red circle (moving) left"
    open_with(folder, tmp_path)(typed, **LATENTS)
    open_with(folder, tmp_path)(typed.upper(), **LATENTS)  # the same after cleaning
    assert len(loads) == 1
    open_with(folder, tmp_path)(typed, clean_caption=False, **LATENTS)
    assert len(loads) == 2


def test_masking_uses_the_same_features(folder: Path, tmp_path: Path, loads: list[Path]) -> None:
    open_with(folder, tmp_path)(PROMPT, **LATENTS)
    whole = open_with(folder, tmp_path)(PROMPT, mask_feature=False, **LATENTS).latents
    assert len(loads) == 1
    off = open_with(folder, "off")(PROMPT, mask_feature=False, **LATENTS).latents
    assert (whole - off).abs().max() <= 1e-5


@pytest.mark.parametrize("choice", ["", " "])
def test_cache_that_is_no_folder_is_refused(folder: Path, choice: str) -> None:
    with pytest.raises(InvalidInputError, match="embedding_cache is"):
        open_with(folder, choice)


def test_cache_that_is_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="folder to keep text features in"):
        open_with(folder, tmp_path / "file")


def test_command_keeps_prompts_where_it_is_told(
    folder: Path, tmp_path: Path, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATTE_CACHE_DIR", str(tmp_path / "usual"))
    command = ["sample", "--model", str(folder), "--prompt", PROMPT, "--steps", "1"]
    command += ["--frames", "1", "--device", "cpu", "--output", str(tmp_path / "picture.png")]
    command += ["--overwrite"]
    for choice, expected in (("on", 1), ("on", 1), (str(tmp_path / "own"), 2), ("off", 3)):
        assert main([*command, "--embedding-cache", choice]) == 0
        assert len(loads) == expected
    assert len(list((tmp_path / "own").iterdir())) == 2
