"""Pipelines under every preset: the same videos, one part away from home at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte
from torch import nn

from latte_core.checkpoint.lora.writer import write_lora
from latte_core.cli.main import main
from latte_core.errors import IncompatibleInputsError, InvalidInputError
from latte_core.memory import PRESETS, BlockStream, MemoryPlan, Stages
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.video import read_video

QUICK = ["--steps", "2", "--device", "cpu", "--frames", "2"]
ALL_STREAMED = MemoryPlan(name="own", text="streamed", transformer="streamed", vae="in turn")


@pytest.fixture(autouse=True)
def tiny_tensors_are_streamed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BlockStream.__init__.__kwdefaults__, "smallest", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("classes") / "model")


def open_with(folder: Path, memory: str | MemoryPlan, **options: Any) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu", memory=memory, **options)


def homes(pipeline: Pipeline) -> dict[int, nn.Module]:
    """Return the parts' weights by identity."""
    parts = pipeline.parts
    modules: list[Any] = [parts.transformer, parts.text_encoder().module, parts.vae("image").module]
    parts.stages.rest()
    return {id(one): module for module in modules for one in module.parameters()}


@pytest.mark.parametrize("vae", ["temporal", "image"])
@pytest.mark.parametrize("memory", [*PRESETS, ALL_STREAMED], ids=str)
def test_every_preset_makes_the_same_video(
    folder: Path, memory: str | MemoryPlan, vae: str
) -> None:
    expected = open_with(folder, "24")([PROMPT, "a fish"], **SMALL, vae=vae)
    found = open_with(folder, memory)([PROMPT, "a fish"], **SMALL, vae=vae)
    assert (found.latents - expected.latents).abs().max() <= 1e-5
    assert (found.frames - expected.frames).abs().max() <= 1e-5


@pytest.mark.parametrize("memory", list(PRESETS))
def test_the_second_video_equals_the_first_and_everything_is_home_again(
    folder: Path, memory: str
) -> None:
    pipeline = open_with(folder, memory)
    before = homes(pipeline)
    first = pipeline(PROMPT, **SMALL)
    assert homes(pipeline) == before
    assert torch.equal(pipeline(PROMPT, **SMALL).frames, first.frames)


@pytest.mark.parametrize("memory", ["12", "8", "4"])
def test_only_the_part_that_works_is_on_loan(folder: Path, memory: str) -> None:
    pipeline = open_with(folder, memory)
    used: list[tuple[int, str]] = []
    real = Stages.use

    def use(stages: Stages, module: nn.Module, place: Any) -> None:
        real(stages, module, place)
        lent = stages._lent
        used.append((id(lent), place))
        assert lent is None or lent is module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "use", use)
        pipeline(PROMPT, **SMALL)
    plan = PRESETS[memory]
    assert {place for _, place in used} == {plan.text, plan.transformer, plan.vae}
    assert pipeline.parts.stages._lent is None


@pytest.mark.parametrize("fail_in", ["text", "sampling", "decoding"])
def test_failed_run_brings_everything_home_and_the_next_one_is_a_fresh_one(
    folder: Path, fail_in: str
) -> None:
    pipeline = open_with(folder, ALL_STREAMED, embedding_cache="off")
    expected = pipeline(PROMPT, **SMALL).frames
    before = homes(pipeline)
    part: Any = {
        "text": pipeline.parts.text_encoder().module,
        "sampling": pipeline.parts.transformer,
        "decoding": pipeline.parts.vae("temporal").module.decoder,
    }[fail_in]
    pipeline.parts.stages.rest()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = part.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline(PROMPT, **SMALL)
    handle.remove()
    assert homes(pipeline) == before
    assert torch.equal(pipeline(PROMPT, **SMALL).frames, expected)


@pytest.mark.parametrize(
    ("memory", "advice"),
    [("12", '--memory 8"?'), ("6", '--memory 4"?'), ("4", "smallest; ask for fewer frames")],
)
def test_out_of_memory_names_the_next_preset_and_passes_through(
    folder: Path, memory: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = open_with(folder, memory)
    problem = torch.OutOfMemoryError("CUDA out of memory.")

    def fail(*_: object) -> None:
        raise problem

    handle = pipeline.parts.transformer.register_forward_hook(fail)
    with caplog.at_level(logging.ERROR, "latte"), pytest.raises(torch.OutOfMemoryError) as found:
        pipeline(PROMPT, **SMALL)
    handle.remove()
    assert found.value is problem
    lines = [record.getMessage() for record in caplog.records]
    assert any(f"memory preset {memory}" in line and advice.rstrip('"?') in line for line in lines)


def test_lora_is_merged_into_weights_that_stay(folder: Path, tmp_path: Path) -> None:
    settings = LoraSettings(rank=2, alpha=2.0, targets=("attention",))
    model: Any = open_with(folder, "24").parts.transformer
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws))
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora_state(model), settings=settings, base="tiny", steps=1)
    made: list[torch.Tensor] = []
    for memory in ("24", ALL_STREAMED):
        pipeline = open_with(folder, memory)
        plain = pipeline(PROMPT, **SMALL, output="latents").latents
        patch = pipeline.load_lora(path)
        made.append(pipeline(PROMPT, **SMALL, output="latents").latents)
        patch.remove()
        assert torch.equal(pipeline(PROMPT, **SMALL, output="latents").latents, plain)
        assert not torch.equal(made[-1], plain)
    assert torch.equal(made[0], made[1])


@pytest.mark.parametrize("memory", list(PRESETS))
def test_class_pipelines_have_the_same_presets(class_folder: Path, memory: str) -> None:
    options: dict[str, Any] = {"steps": "2"}
    expected = ClassPipeline.from_pretrained(class_folder, device="cpu")(1, **options)
    pipeline = ClassPipeline.from_pretrained(class_folder, device="cpu", memory=memory)
    found = pipeline(1, **options)
    assert (found.frames - expected.frames).abs().max() <= 1e-5
    assert pipeline.parts.stages._lent is None


@pytest.mark.parametrize(("kind", "home"), [(Pipeline, "folder"), (ClassPipeline, "class_folder")])
@pytest.mark.parametrize(("memory", "rows"), [("8", None), ("6", 4096)])
def test_presets_decide_how_many_tokens_feed_forward_layers_take(
    request: pytest.FixtureRequest, kind: Any, home: str, memory: str, rows: int | None
) -> None:
    opened = kind.from_pretrained(request.getfixturevalue(home), device="cpu", memory=memory)
    modules = opened.parts.transformer.modules()
    found = [one.rows for one in modules if getattr(one, "works_in_parts", False)]
    assert found and set(found) == {rows}


def test_image_vae_decodes_as_many_frames_at_a_time_as_the_preset_says(folder: Path) -> None:
    pipeline, seen = open_with(folder, "4"), list[int]()
    vae: Any = pipeline.parts.vae("image").module.decoder
    pipeline.parts.stages.rest()
    vae.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    pipeline(PROMPT, **{**SMALL, "num_frames": 3}, vae="image")
    assert seen == [1, 1, 1]
    seen.clear()
    pipeline(PROMPT, **{**SMALL, "num_frames": 3}, vae="image", decode_chunk=2)
    assert seen == [2, 1]


def test_unknown_preset_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="memory is '7'"):
        Pipeline.from_pretrained(tmp_path / "missing", memory="7")


def test_command_says_what_it_does_and_records_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "video.mp4"
    command = ["sample", "--model", str(folder), "--prompt", PROMPT, "--output", str(target)]
    assert main([*command, *QUICK, "--memory", "4"]) == 0
    assert "Memory preset 4 (as asked for): text encoder on the CPU" in capsys.readouterr().out
    assert main([*command, *QUICK, "--overwrite"]) == 0
    assert "Memory preset" not in capsys.readouterr().out
    assert read_video(target).frames.shape[0] == 2


def test_cuda_graphs_and_compiling_are_refused_where_the_transformer_moves(folder: Path) -> None:
    with pytest.raises(IncompatibleInputsError, match="preset 12 moves the transformer"):
        open_with(folder, "12").use_cuda_graph()
    with pytest.raises(IncompatibleInputsError, match="preset 4 streams"):
        open_with(folder, "4").compile()
    open_with(folder, "12").use_cuda_graph(False)
