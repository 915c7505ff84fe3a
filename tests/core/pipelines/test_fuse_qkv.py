"""Fused queries, keys and values as a switch of pipelines and of `sample`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.recorded_calls import Tape
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import PROMPT, SMALL, TRANSFORMER, write_tiny_latte
from torch import Tensor

from latte_core.acceleration import CacheSettings
from latte_core.acceleration.graphs import GraphedDenoiser
from latte_core.checkpoint import load_transformer
from latte_core.checkpoint.lora.writer import write_lora
from latte_core.checkpoint.writing.writer import write_safetensors
from latte_core.cli.main import main
from latte_core.errors import InvalidInputError
from latte_core.memory import PRESETS, BlockStream
from latte_core.model.attention import FusedRows
from latte_core.model.weights.fused_qkv import self_attentions
from latte_core.model.weights.lora import LoraSettings, add_lora, lora_state, remove_lora
from latte_core.pipelines.classes.pipeline import ClassPipeline
from latte_core.pipelines.speed import SpeedUps
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.precision.linear import FusedQuantisedLinear
from latte_core.video import read_video

QUICK = ["--steps", "2", "--device", "cpu", "--frames", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("class") / "tiny")


@pytest.fixture(scope="module")
def lora(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a LoRA of random numbers."""
    model: Any = open_text(folder).parts.transformer
    settings = LoraSettings(rank=2, alpha=2.0, targets=("attention", "feed_forward"))
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for up in add_lora(model, settings, generator=draws)[1::2]:
            up.copy_(torch.randn(up.shape, generator=draws) * 0.3)
    path = tmp_path_factory.mktemp("lora") / "a.safetensors"
    write_lora(path, lora_state(model), settings=settings, base="tiny", steps=1)
    remove_lora(model)
    return path


def open_text(folder: Path, **options: Any) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu", **options)


def latents(pipeline: Pipeline, **changes: Any) -> Tensor:
    return pipeline(PROMPT, **{**SMALL, **changes}, output="latents").latents


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def is_fused(pipeline: Pipeline) -> bool:
    model: Any = pipeline.parts.transformer
    kinds = {isinstance(one.to_qkv, FusedRows) for one in self_attentions(model).values()}
    assert len(kinds) == 1
    return kinds.pop()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(one, second[name]) for name, one in first.items()
    )


def test_a_fused_pipeline_makes_the_same_video_and_can_be_taken_apart(folder: Path) -> None:
    pipeline = open_text(folder)
    before = latents(pipeline)
    pipeline.fuse_qkv()
    assert is_fused(pipeline) and near(latents(pipeline), before)
    pipeline.fuse_qkv(False)
    assert not is_fused(pipeline) and torch.equal(latents(pipeline), before)


@pytest.mark.parametrize("order", list(permutations(["fuse", "lora", "int8"])), ids="-".join)
def test_order_of_fusing_loras_and_precision_makes_no_difference(
    folder: Path, lora: Path, order: tuple[str, ...]
) -> None:
    def prepare(order: tuple[str, ...]) -> Pipeline:
        pipeline = open_text(folder)
        steps: dict[str, Callable[[], object]] = {
            "fuse": pipeline.fuse_qkv,
            "lora": lambda: pipeline.load_lora(lora, 0.5),
            "int8": lambda: pipeline.set_precision("int8"),
        }
        for name in order:
            steps[name]()
        return pipeline

    if order.index("int8") < order.index("lora"):
        with pytest.raises(InvalidInputError, match="merge the LoRA, then quantise"):
            prepare(order)
        return
    found, expected = prepare(order), prepare(("lora", "int8", "fuse"))
    layers = list(self_attentions(found.parts.transformer).values())  # pyright: ignore
    assert all(type(one.to_qkv) is FusedQuantisedLinear for one in layers)
    assert torch.equal(latents(found), latents(expected))
    assert torch.equal(latents(prepare(("lora", "int8"))), latents(found))  # sums of whole numbers


def test_a_lora_goes_into_a_fused_pipeline_and_out_again(folder: Path, lora: Path) -> None:
    separate, fused = open_text(folder), open_text(folder)
    fused.fuse_qkv()
    before, patch = latents(fused), fused.load_lora(lora)
    separate.load_lora(lora)
    changed = latents(fused)
    assert near(changed, latents(separate)) and not near(changed, before)
    patch.remove()
    assert torch.equal(latents(fused), before)


@pytest.mark.parametrize("has_lora", [False, True])
def test_a_fused_pipeline_is_saved_under_the_released_names(
    folder: Path, lora: Path, has_lora: bool, tmp_path: Path
) -> None:
    separate, fused = open_text(folder), open_text(folder)
    fused.fuse_qkv()
    for pipeline in (separate, fused) if has_lora else ():
        pipeline.load_lora(lora)
    path = tmp_path / "saved.safetensors"
    write_safetensors(path, fused.parts.transformer.state_dict())
    loaded: Any = load_transformer(path, {**TRANSFORMER})
    assert same(loaded.state_dict(), dict(separate.parts.transformer.state_dict()))
    assert all(one.to_qkv is None for one in self_attentions(loaded).values())


@pytest.mark.parametrize("memory", list(PRESETS))
def test_every_memory_preset_runs_fused_layers_before_and_after_a_run(
    folder: Path, lora: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BlockStream.__init__.__kwdefaults__, "smallest", 1)
    pipeline, expected = open_text(folder, memory=memory), open_text(folder, memory="24")
    wanted = latents(expected)
    pipeline.fuse_qkv()
    first = latents(pipeline)
    assert near(first, wanted) and torch.equal(latents(pipeline), first)
    pipeline.fuse_qkv(False)
    assert near(latents(pipeline), wanted)
    patch, other = pipeline.load_lora(lora), expected.load_lora(lora)
    pipeline.fuse_qkv()
    assert near(latents(pipeline), latents(expected))
    patch.remove()
    other.remove()
    assert torch.equal(latents(pipeline), first)
    weights = pipeline.parts.transformer.state_dict()
    assert same(dict(weights), dict(expected.parts.transformer.state_dict()))


@pytest.mark.parametrize("memory", ["12", "4"])
def test_fusing_is_refused_while_weights_are_on_loan(folder: Path, memory: str) -> None:
    pipeline = open_text(folder, memory=memory)
    expected = latents(pipeline)

    def fuse(*_: object) -> None:
        pipeline.fuse_qkv()

    with pytest.raises(InvalidInputError, match=f"preset {memory} has the transformer on loan"):
        latents(pipeline, callback=fuse)
    assert not is_fused(pipeline) and torch.equal(latents(pipeline), expected)
    pipeline.fuse_qkv()
    assert near(latents(pipeline), expected)


@pytest.mark.parametrize("compiles_first", [True, False])
def test_compiled_blocks_follow_fusing_taking_apart_and_loras(
    folder: Path, lora: Path, compiles_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "latte_core.acceleration.compilation.find_backend"
    monkeypatch.setattr(place, lambda *_: lambda graph, _: graph)
    pipeline, separate = open_text(folder), open_text(folder)
    before = latents(separate)
    separate.load_lora(lora)
    if not compiles_first:
        pipeline.fuse_qkv()
    compiler = pipeline.compile()
    assert near(latents(pipeline), before)
    pipeline.fuse_qkv()
    assert near(latents(pipeline), before)
    patch = pipeline.load_lora(lora)
    assert near(latents(pipeline), latents(separate))
    patch.remove()
    assert near(latents(pipeline), before)
    report = compiler.report()  # a block of each kind, and the first block's shared half
    assert (report.sizes, report.eager_calls, report.failure) == (3, 0, "")
    assert report.graphs == (6 if compiles_first else 3)
    pipeline.fuse_qkv(False)
    assert near(latents(pipeline), before)


def test_recorded_graphs_are_made_anew_after_fusing(folder: Path, lora: Path) -> None:
    pipeline, separate, tape = open_text(folder), open_text(folder), Tape()
    before = latents(separate)
    pipeline.graphs = GraphedDenoiser(pipeline.parts.transformer, lambda _: tape)
    assert near(latents(pipeline), before)
    pipeline.fuse_qkv()
    assert near(latents(pipeline), before)
    assert pipeline.graphs.report().graphs == 2
    separate.load_lora(lora)
    pipeline.load_lora(lora)
    assert near(latents(pipeline), latents(separate))
    assert pipeline.graphs.report().graphs == 2


def test_a_cache_skips_steps_of_a_fused_pipeline(folder: Path) -> None:
    pipeline, cache = open_text(folder), CacheSettings(speed_up=2.0)
    expected = latents(pipeline, num_steps=8, cache=cache)
    pipeline.fuse_qkv()
    assert near(latents(pipeline, num_steps=8, cache=cache), expected)


def test_class_pipelines_stay_as_they_are(class_folder: Path) -> None:
    pipeline = ClassPipeline.from_pretrained(class_folder, device="cpu")
    before = dict(pipeline.parts.transformer.named_modules())
    for is_used in (True, False):
        pipeline.fuse_qkv(is_used)
    after = dict(pipeline.parts.transformer.named_modules())
    assert list(after) == list(before)
    assert all(one is before[name] for name, one in after.items())


@pytest.mark.parametrize(("given", "calls"), [([], []), (["--fuse-qkv"], [True])])
@pytest.mark.parametrize("kind", ["text", "class"])
def test_the_command_line_fuses_and_says_so(
    kind: str,
    given: list[str],
    calls: list[bool],
    folder: Path,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    plain = SpeedUps.fuse_qkv

    def noted(self: SpeedUps, is_used: bool = True) -> None:
        seen.append(is_used)
        plain(self, is_used)

    monkeypatch.setattr(SpeedUps, "fuse_qkv", noted)
    what = {
        "text": ["--model", str(folder), "--prompt", PROMPT],
        "class": ["--model", str(class_folder), "--class", "red circle"],
    }[kind]
    target = tmp_path / "a.mp4"
    assert main(["sample", *what, *QUICK, "--output", str(target), *given]) == 0
    assert seen == calls
    assert (b'"fuse_qkv": true' in target.read_bytes()) is bool(calls)


def test_the_command_line_takes_every_switch_at_once(
    folder: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "latte_core.acceleration.compilation.find_backend"
    monkeypatch.setattr(place, lambda *_: lambda graph, _: graph)
    command = ["sample", "--model", str(folder), "--prompt", PROMPT, *QUICK, "--lora", str(lora)]
    command += ["--precision", "int8", "--output"]
    plain, fused = tmp_path / "plain.mp4", tmp_path / "fused.mp4"
    assert main([*command, str(plain)]) == 0
    assert main([*command, str(fused), "--fuse-qkv", "--compile", "--no-kernels"]) == 0
    frames = [read_video(path).frames for path in (plain, fused)]
    assert torch.equal(frames[0], frames[1])
