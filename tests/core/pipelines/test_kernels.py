"""Fused kernels switched off, in Python and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte

from latte_core.cli.main import main
from latte_core.kernels.choice import KernelUse
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.speed import SpeedUps
from latte_core.pipelines.text.pipeline import Pipeline


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("class") / "tiny")


def test_pipelines_switch_kernels_off_and_on(text_folder: Path, class_folder: Path) -> None:
    text = Pipeline.from_pretrained(text_folder, device="cpu")
    before = text(PROMPT, **SMALL, output="latents").latents
    for pipeline in (text, ClassPipeline.from_pretrained(class_folder, device="cpu")):
        model = pipeline.parts.transformer
        assert model.kernels.use is KernelUse.AUTO
        pipeline.use_kernels(False)
        assert model.kernels.use is KernelUse.NEVER
        pipeline.use_kernels(is_timed=False)
        assert model.kernels.use is KernelUse.FIXED
    assert torch.equal(text(PROMPT, **SMALL, output="latents").latents, before)
    text.use_kernels()
    assert text.parts.transformer.kernels.use is KernelUse.AUTO


@pytest.mark.parametrize(
    ("given", "calls", "told"),
    [
        ([], [], None),
        (["--no-kernels"], [(False, True)], b'"kernels": false'),
        (["--fixed-kernels"], [(True, False)], b'"kernels": "fixed"'),
    ],
)
@pytest.mark.parametrize("kind", ["text", "class"])
def test_the_command_line_switches_kernels_off_or_fixes_them_and_says_so(
    kind: str,
    given: list[str],
    calls: list[tuple[bool, bool]],
    told: bytes | None,
    text_folder: Path,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[bool, bool]] = []
    plain = SpeedUps.use_kernels

    def noted(self: SpeedUps, is_used: bool = True, *, is_timed: bool = True) -> None:
        seen.append((is_used, is_timed))
        plain(self, is_used, is_timed=is_timed)

    monkeypatch.setattr(SpeedUps, "use_kernels", noted)
    what = {
        "text": ["--model", str(text_folder), "--prompt", PROMPT],
        "class": ["--model", str(class_folder), "--class", "red circle"],
    }[kind]
    target = tmp_path / "a.mp4"
    more = ["--steps", "2", "--frames", "2", "--device", "cpu", "--output", str(target)]
    assert main(["sample", *what, *more, *given]) == 0
    assert seen == calls
    written = target.read_bytes()
    assert (b'"kernels"' in written) is (told is not None)
    assert told is None or told in written
