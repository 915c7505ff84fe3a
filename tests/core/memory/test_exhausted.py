"""Memory that runs out with a plain RuntimeError: smaller plans and advice all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from latte_test_support.vae_cases import make_vae, random_frames, random_latents

from latte_core.cli.main import main
from latte_core.pipelines.text.pipeline import Pipeline

CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CUDNN = "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
OTHER = "CUDA error: an illegal memory access was encountered"


def failing(call: Callable[..., Any], most: int, message: str) -> Callable[..., Any]:
    """Return a call that fails above a number of frames."""

    def limited(frames: torch.Tensor, **options: Any) -> Any:
        if len(frames) > most:
            raise RuntimeError(message)
        return call(frames, **options)

    return limited


def test_vae_decodes_fewer_frames_when_cudnn_finds_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae, latents = make_vae(False), random_latents()
    whole = vae.decode(latents)
    monkeypatch.setattr(vae.module, "decode", failing(vae.module.decode, 1, CUDNN))
    with caplog.at_level(logging.WARNING, "latte"):
        frames = vae.decode(latents)
    assert (frames - whole).abs().max() <= 1e-5
    assert [record.getMessage() for record in caplog.records] == [
        "Not enough memory: decoded 1 frames at a time."
    ]


def test_vae_encodes_fewer_frames_when_cublas_finds_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vae, frames = make_vae(False), random_frames(frames=4)
    whole = vae.encode(frames)
    monkeypatch.setattr(vae.module, "encode", failing(vae.module.encode, 2, CUBLAS))
    assert (vae.encode(frames) - whole).abs().max() <= 1e-5


def test_vae_passes_other_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_vae(False)
    monkeypatch.setattr(vae.module, "decode", failing(vae.module.decode, 0, OTHER))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        vae.decode(random_latents())


@pytest.mark.parametrize(("message", "advises"), [(CUBLAS, True), (OTHER, False)])
def test_pipeline_names_the_next_preset_and_passes_the_error_through(
    tmp_path: Path, message: str, advises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_latte(tmp_path)
    pipeline = Pipeline.from_pretrained(folder, device="cpu", memory="12")
    problem = RuntimeError(message)

    def fail(*_: object) -> None:
        raise problem

    pipeline.parts.transformer.register_forward_hook(fail)
    with caplog.at_level(logging.ERROR, "latte"), pytest.raises(RuntimeError) as found:
        pipeline(PROMPT, **SMALL)
    assert found.value is problem
    assert ("Use the preset 8" in caplog.text) is advises
    assert ("while sampling" in caplog.text) is advises


def test_command_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CUBLAS)

    monkeypatch.setattr(Pipeline, "__call__", fail)
    command = ["sample", "--prompt", PROMPT, "--output", str(tmp_path / "clip.mp4")]
    assert main([*command, "--device", "cpu"]) == 2
    assert "not enough memory" in capsys.readouterr().err
