"""A denoiser replayed from fixed buffers: what is copied, when it is recorded anew, and fallbacks.

Only the recording itself needs a GPU. In its place on the CPU stands `Tape`, which keeps to the
same contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from latte_test_support.recorded_calls import Tape
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor

from latte_core.acceleration.graphs import MAX_GRAPHS, GraphedDenoiser, GraphReport, version_of
from latte_core.model.attention import BlockHooks, scaled_dot_product
from latte_core.model.t2v.blocks import TEXT_LENGTHS, TextFeatures
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.model.weights.merge import merge_lora

SIZE = (2, 4, 3, 4, 6)


class Failing:
    """A recorder on which nothing can be recorded."""

    def record(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.fixture
def model() -> LatteT2V:
    return tiny_model()


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def graphed(model: LatteT2V, tape: Tape) -> GraphedDenoiser:
    return GraphedDenoiser(model, lambda _: tape)


def latents(seed: int = 0) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def projected(model: LatteT2V, seed: int = 0, length: int = 5) -> TextFeatures:
    draws = torch.Generator().manual_seed(seed)
    return model.project_text(torch.randn(2, length, 24, generator=draws))


def prepared(model: LatteT2V, seed: int = 0, length: int = 5) -> dict[str, Any]:
    """Return what a pipeline hands to every call of a run, its text at a length of graphs."""
    text = projected(model, seed, length).padded()
    return {"text": text, "places": model.place_tables(SIZE, "cpu"), "noise_only": True}


@torch.no_grad()
def run(model: Any, step: int, time: float, **options: Any) -> Tensor:
    return model(latents(step), torch.tensor([time]), **options)


def test_steps_of_a_run_are_replayed_with_their_own_latents_and_timesteps(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    options = prepared(model)
    for step, time in enumerate((900.0, 500.0, 20.0)):
        expected = run(model, step, time, **options)
        assert torch.equal(run(graphed, step, time, **options), expected)
    assert len(tape.calls) == 1
    assert graphed.report() == GraphReport(graphs=1, replays=3, eager_calls=0, reason="")


def test_another_prompt_of_the_same_length_is_copied_not_recorded(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    for seed in (0, 1, 0):
        options = prepared(model, seed)
        expected = run(model, 0, 500.0, **options)
        assert torch.equal(run(graphed, 0, 500.0, **options), expected)
    assert len(tape.calls) == 1


def test_prompts_of_a_few_tokens_more_or_less_share_a_graph(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    for length, recorded in ((5, 1), (1, 1), (16, 1), (17, 2), (30, 2), (9, 2)):
        options = {**prepared(model), "text": projected(model, length=length)}
        expected = run(model, 0, 500.0, **options)
        found = run(graphed, 0, 500.0, **options)
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        assert len(tape.calls) == recorded


def test_padded_text_is_copied_once_while_it_stays(
    model: LatteT2V, graphed: GraphedDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, made = {**prepared(model), "text": projected(model)}, list[int]()
    plain = TextFeatures.padded

    def padded(text: TextFeatures) -> TextFeatures:
        made.append(1)
        return plain(text)

    monkeypatch.setattr(TextFeatures, "padded", padded)
    for step in range(3):
        run(graphed, step, 500.0, **options)
    assert made == [1]


def test_tensors_that_were_written_to_are_copied_again(
    model: LatteT2V, graphed: GraphedDenoiser
) -> None:
    options, given, time = prepared(model), latents(), torch.tensor([500.0])
    with torch.no_grad():
        first = graphed(given, time, **options)
        given.mul_(0.5)
        second = graphed(given, time, **options)
        assert torch.equal(second, model(given, time, **options))
    assert not torch.equal(first, second)


def test_tensors_of_inference_mode_are_copied_each_time(graphed: GraphedDenoiser) -> None:
    with torch.inference_mode():
        options, given = prepared(graphed.model), latents()  # type: ignore[arg-type]
        assert version_of(given) is None
        graphed(given, torch.tensor([500.0]), **options)
        given.mul_(0.5)
        found = graphed(given, torch.tensor([500.0]), **options)
        assert torch.equal(found, graphed.model(given, torch.tensor([500.0]), **options))


def test_results_are_not_overwritten_by_the_next_call(
    model: LatteT2V, graphed: GraphedDenoiser
) -> None:
    options = prepared(model)
    first = run(graphed, 0, 900.0, **options)
    kept = first.clone()
    run(graphed, 1, 500.0, **options)
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    "other", [{"length": 17}, {"noise_only": False}, {"shared_input": True}, {"frames": 2}]
)
def test_another_shape_or_option_is_another_graph(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape, other: dict[str, Any]
) -> None:
    run(graphed, 0, 500.0, **prepared(model))
    options = prepared(model, length=other.pop("length", 5))
    frames = other.pop("frames", SIZE[2])
    given = latents()[:, :, :frames]
    options |= {"places": model.place_tables(given.shape, "cpu"), **other}
    time = torch.tensor([500.0])
    with torch.no_grad():
        found, expected = graphed(given, time, **options), model(given, time, **options)
    assert torch.equal(found, expected)
    assert len(tape.calls) == 2


def test_only_the_latest_graphs_are_kept(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    lengths = TEXT_LENGTHS[: MAX_GRAPHS + 1]
    for length in (*lengths, lengths[-1], lengths[0]):
        run(graphed, 0, 500.0, **prepared(model, length=length))
    assert len(tape.calls) == len(lengths) + 1
    graphed.clear()
    run(graphed, 0, 500.0, **prepared(model, length=lengths[0]))
    assert len(tape.calls) == len(lengths) + 2


def test_lora_merged_in_place_is_seen_and_moved_weights_are_recorded_anew(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    options, layer = prepared(model), "diffusion_model.transformer_blocks.1.attn1.to_q"
    before = run(graphed, 0, 500.0, **options)
    pair = {"lora_A.weight": torch.ones(1, 16), "lora_B.weight": torch.ones(16, 1)}
    merge_lora(model, {f"{layer}.{name}": one for name, one in pair.items()}, 1.0)
    assert torch.equal(run(graphed, 0, 500.0, **options), run(model, 0, 500.0, **options))
    assert not torch.equal(run(graphed, 0, 500.0, **options), before)
    recorded = len(tape.calls)
    weight: Any = model.proj_out.weight
    weight.data = weight.data * 2
    assert torch.equal(run(graphed, 0, 500.0, **options), run(model, 0, 500.0, **options))
    assert len(tape.calls) == recorded + 1


def test_class_models_are_replayed_with_other_labels(tape: Tape) -> None:
    model = tiny_latte()
    graphed = GraphedDenoiser(model, lambda _: tape)
    given = torch.randn(1, 4, model.temp_embed.shape[1], 8, 8)
    with torch.no_grad():
        for label, time in ((0, 10), (2, 900)):
            call = (given, torch.tensor([time]), torch.tensor([label]))
            assert torch.equal(graphed(*call), model(*call))
    assert len(tape.calls) == 1


def test_model_on_the_cpu_runs_without_graphs_and_says_so_once(model: LatteT2V) -> None:
    graphed, options = GraphedDenoiser(model), prepared(model)
    with pytest.warns(UserWarning, match="on cpu, and CUDA graphs need CUDA") as caught:
        found = [run(graphed, step, 500.0, **options) for step in (0, 1)]
    assert len(caught) == 1
    assert torch.equal(found[1], run(model, 1, 500.0, **options))
    assert graphed.report().eager_calls == 2
    assert "on cpu" in graphed.report().sentence()


def test_failed_recording_is_tried_once(model: LatteT2V) -> None:
    graphed, options = GraphedDenoiser(model, lambda _: Failing()), prepared(model)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing\\.") as caught:
        found = [run(graphed, step, 500.0, **options) for step in (0, 1)]
    assert len(caught) == 1
    assert torch.equal(found[1], run(model, 1, 500.0, **options))
    assert graphed.report().graphs == 0


def test_hooks_and_gradients_are_not_recorded(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    options = prepared(model)
    with pytest.warns(UserWarning, match="decides anew"):
        run(graphed, 0, 500.0, hooks=BlockHooks(attention=scaled_dot_product), **options)
    with pytest.warns(UserWarning, match="gradients"):
        graphed(latents(), torch.tensor([500.0]), **options)
    assert not tape.calls


def test_streamed_weights_are_not_recorded(
    model: LatteT2V, graphed: GraphedDenoiser, tape: Tape
) -> None:
    model.register_parameter("elsewhere", torch.nn.Parameter(torch.empty(1, device="meta")))
    with pytest.warns(UserWarning, match="streamed"):
        run(graphed, 0, 500.0, **prepared(model))
    assert not tape.calls


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["text", "class"])
def test_cuda_graph_gives_what_the_model_gives(kind: str) -> None:
    model: Any = (tiny_model() if kind == "text" else tiny_latte()).cuda()
    graphed = GraphedDenoiser(model)
    frames = SIZE[2] if kind == "text" else model.temp_embed.shape[1]
    side = SIZE[3:] if kind == "text" else (8, 8)
    with torch.no_grad():
        options: dict[str, Any] = {"class_labels": torch.tensor([1, 0], device="cuda")}
        if kind == "text":
            text = model.project_text(torch.randn(2, 5, 24, device="cuda"))
            options = {"text": text, "places": model.place_tables(SIZE, "cuda")}
        for time in (900.0, 500.0, 20.0):
            given = torch.randn(2, 4, frames, *side, device="cuda")
            times = torch.full((2,), time, device="cuda")
            expected = model(given, times, **options)
            found = graphed(given, times, **options)
            assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert graphed.report() == GraphReport(graphs=1, replays=3, eager_calls=0, reason="")
