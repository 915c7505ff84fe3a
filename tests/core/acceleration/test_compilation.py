"""Compiled blocks: one graph of a kind for all layers, made once, and the same results."""

from __future__ import annotations

import copy
import shutil
import warnings
from typing import Any

import pytest
import torch
from latte_test_support.cached_runs import STEPS, denoise
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.acceleration import StepCache, body_of, hand_schedule
from latte_core.acceleration.compilation import (
    RegionalCompiler,
    compile_model,
    compiler_of,
    uncompile_model,
)
from latte_core.errors import IncompatibleInputsError
from latte_core.kernels.choice import KernelSet
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.fused_qkv import fuse_qkv
from latte_core.model.weights.merge import merge_lora

EAGER = "eager"  # traces as every backend does, and runs the graph as it is
LAYERS = 3


@pytest.fixture
def model() -> LatteT2V:
    return tiny_model(num_layers=LAYERS)


def inputs(rows: int = 2, length: int = 5, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    latents = torch.randn(rows, 4, 3, 4, 6, generator=draws)
    return latents, torch.tensor([500.0]), torch.randn(rows, length, 24, generator=draws)


@torch.no_grad()
def run(model: nn.Module, *given: Any, **options: Any) -> Tensor:
    return model(*(given or inputs()), **options)


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_all_layers_share_one_graph_of_each_kind(model: LatteT2V) -> None:
    expected = run(model)
    compiler = compile_model(model, backend=EAGER)
    assert near(run(model), expected)
    report = compiler.report()
    assert (report.graphs, report.sizes, report.recompiles, report.eager_calls) == (2, 2, 0, 0)
    assert report.seconds > 0


@pytest.mark.parametrize("lengths", [(5, 9, 2, 17), (9, 5), (5, 1, 40, 130), (1, 16)])
def test_prompts_of_every_length_share_the_graphs(
    model: LatteT2V, lengths: tuple[int, ...]
) -> None:
    expected = [run(model, *inputs(length=length)) for length in lengths]
    compiler = compile_model(model, backend=EAGER)
    for length, wanted in zip(lengths, expected, strict=True):
        assert near(run(model, *inputs(length=length)), wanted)
    assert compiler.report().graphs == 2


def test_one_row_of_the_batch_costs_one_more_graph_of_each_kind(model: LatteT2V) -> None:
    compiler = compile_model(model, backend=EAGER)
    for rows in (2, 1, 2, 1):
        run(model, *inputs(rows=rows))
    report = compiler.report()
    assert (report.graphs, report.recompiles) == (4, 0)


def test_text_for_all_videos_and_masks_are_compiled_too(model: LatteT2V) -> None:
    latents, time, context = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = [run(model, latents, time, context[:1]), run(model, latents, time, context, mask)]
    compile_model(model, backend=EAGER)
    assert near(run(model, latents, time, context[:1]), expected[0])
    assert near(run(model, latents, time, context, mask), expected[1])


def test_halves_that_are_the_same_are_still_computed_once(model: LatteT2V) -> None:
    latents, time, context = inputs()
    twice = latents[:1].expand(2, -1, -1, -1, -1)
    expected = run(model, twice, time, context, shared_input=True, noise_only=True)
    compiler = compile_model(model, backend=EAGER)
    assert near(run(model, twice, time, context, shared_input=True, noise_only=True), expected)
    assert compiler.report().graphs == 3  # the first spatial block has half of the rows


def test_merged_lora_is_seen_without_compiling_again(model: LatteT2V) -> None:
    compiler = compile_model(model, backend=EAGER)
    plain = run(model)
    layer = "diffusion_model.transformer_blocks.1.attn1.to_q"
    draws = torch.Generator().manual_seed(0)
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(4, 16, generator=draws),
        f"{layer}.lora_B.weight": torch.randn(16, 4, generator=draws),
    }
    patch = merge_lora(model, tensors, 1.0)
    changed = run(model)
    assert compiler.report().graphs == 2
    assert not near(changed, plain)
    uncompile_model(model)
    assert near(changed, run(model))
    compile_model(model, backend=EAGER)
    patch.remove()
    assert near(run(model), plain)


def test_fused_layers_are_compiled(model: LatteT2V) -> None:
    expected = run(model)
    fuse_qkv(model)
    compiler = compile_model(model, backend=EAGER)
    assert near(run(model), expected)
    assert compiler.report().graphs == 2


def test_step_cache_works_around_compiled_blocks(model: LatteT2V) -> None:
    def cached() -> Tensor:
        cache = StepCache(hand_schedule(STEPS, 2), body_of(model), num_steps=STEPS)
        made = denoise(model, cache)
        assert cache.tally.skipped_steps
        return made

    expected = cached()
    compiler = compile_model(model, backend=EAGER)
    assert near(cached(), expected)
    report = compiler.report()
    assert (report.graphs, report.eager_calls) == (2, 0)


def test_hook_inside_a_block_is_obeyed_uncompiled_and_said_once(model: LatteT2V) -> None:
    seen: list[int] = []

    def watch(index: int, heads: int, attended: Tensor) -> Tensor:
        seen.append(index)
        return attended

    def other(*given: Any, **about: Any) -> Tensor:
        return scaled_dot_product(*given, **about)

    compiler = compile_model(model, backend=EAGER)
    with pytest.warns(UserWarning, match="run uncompiled") as caught:
        run(model, hooks=BlockHooks(attn_output_hook=watch))
        run(model, hooks=BlockHooks(attention=other))
    assert len(caught) == 1
    assert seen == [0, 1, 2]
    report = compiler.report()
    assert (report.graphs, report.eager_calls) == (0, 4 * LAYERS)


@pytest.mark.parametrize(
    ("changes", "graphs"),
    [({}, 3), ({"variant": 2}, 3), ({"variant": 3}, 2), ({"variant": 4}, 1)],
    ids=["variant 1", "variant 2", "variant 3", "variant 4"],
)
def test_class_models_compile_one_graph_of_each_kind(changes: dict[str, Any], graphs: int) -> None:
    model = tiny_latte(depth=6, **changes)
    draws = torch.Generator().manual_seed(0)
    frames = model.temp_embed.shape[1]
    given = (torch.randn(2, 4, frames, 8, 8, generator=draws), torch.tensor([9, 800]))
    labels = torch.tensor([0, 2])
    expected = run(model, *given, labels)
    compiler = compile_model(model, backend=EAGER)
    assert near(run(model, *given, labels), expected)
    report = compiler.report()  # a block that adds the table of times is a kind of its own
    assert (report.graphs, report.recompiles, report.eager_calls) == (graphs, 0, 0)


def test_failing_backend_is_said_once_and_the_blocks_run_as_they_are(
    model: LatteT2V, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("latte_core.acceleration.compilation.find_backend", lambda *_: fail)
    expected = run(model)
    compiler = compile_model(model)
    with pytest.warns(UserWarning, match=r"uncompiled.*no C\+\+ compiler") as caught:
        found = [run(model), run(model)]
    assert len(caught) == 1
    assert near(found[0], expected)  # its text was padded for graphs already
    assert torch.equal(found[1], expected)
    assert "no C++ compiler" in compiler.report().sentence()


class OnCard(KernelSet):
    """Is active as on a card, so that sums are owed from block to block; torch does them."""

    def is_active(self, tokens: Tensor) -> bool:
        return not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def run(self, kernel: Any, plain: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)


def test_blocks_that_owe_sums_run_as_they_are_where_compiling_fails(
    model: LatteT2V, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("latte_core.acceleration.compilation.find_backend", lambda *_: fail)
    model.kernels = OnCard()
    expected = run(model)
    compile_model(model)
    with pytest.warns(UserWarning, match="uncompiled"):
        assert near(run(model), expected)
    assert torch.equal(run(model), expected)


def test_graph_that_fails_when_it_runs_is_given_up_for_the_blocks(
    model: LatteT2V, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_plan(*_: Any) -> Any:
        raise RuntimeError("cuDNN has no execution plan for this")

    monkeypatch.setattr(
        "latte_core.acceleration.compilation.find_backend", lambda *_: lambda *_: without_plan
    )
    expected = run(model)
    compiler = compile_model(model)
    with pytest.warns(UserWarning, match=r"uncompiled.*execution plan"):
        assert near(run(model), expected)
    assert "execution plan" in compiler.report().failure


def test_lack_of_memory_in_a_graph_is_not_taken_for_a_failure_to_compile(
    model: LatteT2V, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(
        "latte_core.acceleration.compilation.find_backend", lambda *_: lambda *_: full
    )
    compiler = compile_model(model)
    with pytest.raises(torch.OutOfMemoryError):
        run(model)
    assert not compiler.report().failure


def test_operation_that_cannot_be_traced_falls_back(model: LatteT2V) -> None:
    class Peeking(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            if float(given.sum()) > 1e9:  # a graph cannot know
                return given
            return super().forward(given)

    layer: Any = model.transformer_blocks[0].attn1
    layer.to_q.__class__ = Peeking
    expected = run(model)
    compiler = compile_model(model, backend=EAGER)
    with pytest.warns(UserWarning, match="torch.compile failed"):
        assert near(run(model), expected)
    assert torch.equal(run(model), expected)
    assert compiler.report().failure


def test_errors_of_a_block_itself_are_not_hidden(model: LatteT2V) -> None:
    compile_model(model, backend=EAGER)
    latents, time, context = inputs()
    with pytest.raises(IncompatibleInputsError, match="text conditionings"):
        run(model, latents, time, context.repeat(3, 1, 1)[:5])


def test_uncompiled_model_is_what_it_was(model: LatteT2V) -> None:
    names, expected = list(model.state_dict()), run(model)
    compiler = compile_model(model, backend=EAGER)
    run(model)
    assert list(model.state_dict()) == names
    assert compile_model(model) is compiler
    uncompile_model(model)
    assert compiler_of(model) is None
    assert torch.equal(run(model), expected)
    assert compiler.report().graphs == 2
    uncompile_model(model)


def test_graphs_survive_taking_turns_and_serve_other_models() -> None:
    first, second = tiny_model(0, num_layers=LAYERS), tiny_model(1, num_layers=LAYERS)
    expected = [run(first), run(second)]
    compiler = RegionalCompiler(backend=EAGER)
    for _ in range(2):
        for model, wanted in zip((first, second), expected, strict=True):
            with compiler.attached(model):
                assert near(run(model), wanted)
            assert compiler_of(model) is None
    assert compiler.report().graphs == 2


def test_many_sizes_in_one_process_stay_compiled(model: LatteT2V) -> None:
    compiler = compile_model(model, backend=EAGER)
    sides = range(2, 20, 2)  # more than the graphs that torch keeps with a function's code
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in sides:
            run(model, torch.zeros(1, 4, 2, 4, side), torch.tensor([5.0]), inputs(1)[2])
    report = compiler.report()
    assert (report.graphs, report.recompiles, report.failure) == (2 * len(sides), 0, "")


def test_copy_of_a_compiled_model_is_a_model_of_its_own(model: LatteT2V) -> None:
    compile_model(model, backend=EAGER)
    expected = run(model)
    twin = copy.deepcopy(model)
    uncompile_model(model)
    assert near(run(twin), expected)
    uncompile_model(twin)
    assert near(run(twin), expected)


def test_model_that_another_tool_calls_is_refused(model: LatteT2V) -> None:
    block: Any = model.temporal_transformer_blocks[1]
    block.forward = block.forward
    with pytest.raises(IncompatibleInputsError, match="another tool"):
        RegionalCompiler().attach(model)
    assert "forward" not in vars(model.transformer_blocks[0])
    with pytest.raises(IncompatibleInputsError, match="no Latte|only|Only"):
        compile_model(nn.Linear(2, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own parts
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_inductor_gives_the_same_for_two_prompts_from_one_graph(model: LatteT2V) -> None:
    lengths = (5, 9)
    expected = [run(model, *inputs(length=length)) for length in lengths]
    compiler = compile_model(model)
    found = [run(model, *inputs(length=length)) for length in lengths]
    assert all(near(one, wanted) for one, wanted in zip(found, expected, strict=True))
    report = compiler.report()
    assert (report.graphs, report.recompiles, report.failure) == (2, 0, "")
