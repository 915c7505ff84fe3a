"""Pipelines and `sample` with compiled blocks and with replayed steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.recorded_calls import Tape
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.pipeline import PROMPT, write_tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration import CacheSettings
from latte_core.acceleration.compilation import uncompile_model
from latte_core.acceleration.graphs import GraphedDenoiser
from latte_core.cli.main import main
from latte_core.errors import IncompatibleInputsError
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline

STEPS = 3
RUN: dict[str, Any] = {"num_steps": STEPS, "num_frames": 2, "output": "latents"}
CLASS_RUN: dict[str, Any] = {"steps": str(STEPS), "guidance_scale": 4.0, "output": "latents"}


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run graphs as they are traced; inductor itself is in test_compilation."""
    place = "latte_core.acceleration.compilation.find_backend"
    monkeypatch.setattr(place, lambda *_: lambda graph, _: graph)


def text_run(pipeline: Pipeline, length: int = 5, **changes: Any) -> Tensor:
    draws = torch.Generator().manual_seed(length)
    embeds = [torch.randn(1, length, 24, generator=draws) for _ in range(2)]
    given = {"prompt_embeds": embeds[0], "negative_embeds": embeds[1], **RUN, **changes}
    return pipeline(None, **given).latents


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_compiled_text_pipeline_makes_the_same_videos_with_three_graphs() -> None:
    pipeline = Pipeline(tiny_model())
    expected = [text_run(pipeline, length) for length in (5, 8)]
    compiler = pipeline.compile()
    for length, wanted in zip((5, 8), expected, strict=True):
        assert near(text_run(pipeline, length), wanted)
    report = compiler.report()  # a block of each kind, and the first block's shared half
    assert (report.graphs, report.recompiles, report.eager_calls) == (3, 0, 0)
    uncompile_model(pipeline.parts.transformer)
    assert torch.equal(text_run(pipeline, 5), expected[0])


def test_compiled_pipeline_caches_steps() -> None:
    pipeline, settings = Pipeline(tiny_model()), CacheSettings(speed_up=2.0)
    expected = text_run(pipeline, num_steps=8, cache=settings)
    compiler = pipeline.compile()
    assert near(text_run(pipeline, num_steps=8, cache=settings), expected)
    assert compiler.report().eager_calls == 0


def test_compiled_class_pipeline_makes_the_same_video() -> None:
    pipeline = ClassPipeline(tiny_latte())
    expected = pipeline(1, **CLASS_RUN).latents
    compiler = pipeline.compile()
    assert near(pipeline(1, **CLASS_RUN).latents, expected)
    pipeline(2, seed=5, **CLASS_RUN)
    report = compiler.report()
    assert (report.recompiles, report.eager_calls, report.failure) == (0, 0, "")


def test_text_pipeline_replays_every_step_of_every_run() -> None:
    pipeline, tape = Pipeline(tiny_model()), Tape()
    expected = [text_run(pipeline, seed=seed) for seed in (0, 1)]
    pipeline.graphs = GraphedDenoiser(pipeline.parts.transformer, lambda _: tape)
    for seed, wanted in enumerate(expected):
        assert near(text_run(pipeline, seed=seed), wanted)
    report = pipeline.graphs.report()
    assert (report.graphs, report.replays, report.eager_calls) == (1, 2 * STEPS, 0)


def test_class_pipeline_replays_every_step_of_every_run() -> None:
    pipeline, tape = ClassPipeline(tiny_latte()), Tape()
    expected = [pipeline(label, **CLASS_RUN).latents for label in (1, 2)]
    pipeline.graphs = GraphedDenoiser(pipeline.parts.transformer, lambda _: tape)
    for label, wanted in zip((1, 2), expected, strict=True):
        assert near(pipeline(label, **CLASS_RUN).latents, wanted)
    assert pipeline.graphs.report().replays == 2 * STEPS
    assert len(tape.calls) == 1


@pytest.mark.parametrize("is_text", [True, False])
def test_cache_and_graphs_are_refused_together(is_text: bool) -> None:
    pipeline = Pipeline(tiny_model()) if is_text else ClassPipeline(tiny_latte())
    pipeline.use_cuda_graph()
    with pytest.raises(IncompatibleInputsError, match="exclude each other"):
        if isinstance(pipeline, Pipeline):
            text_run(pipeline, num_steps=8, cache=CacheSettings())
        else:
            pipeline(1, cache=CacheSettings(), **CLASS_RUN)
    pipeline.use_cuda_graph(False)
    assert pipeline.graphs is None


def test_graphs_on_the_cpu_change_nothing_but_say_so() -> None:
    pipeline = Pipeline(tiny_model())
    expected = text_run(pipeline)
    pipeline.use_cuda_graph()
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        assert torch.equal(text_run(pipeline), expected)


def test_sample_compiles_says_how_long_it_took_and_keeps_it_in_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = write_tiny_latte(tmp_path / "tiny"), tmp_path / "two.mp4"
    quick = ["--steps", "2", "--device", "cpu", "--frames", "2", "--num", "2", "--compile"]
    given = ["sample", "--model", str(folder), "--prompt", PROMPT, "--output", str(target)]
    assert main([*given, *quick]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Compiled: 3 graphs in ") == 1
    assert b'"compile": true' in (tmp_path / "two-001.mp4").read_bytes()
