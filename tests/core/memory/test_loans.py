"""Weights on loan: whole modules and streams of blocks, on the CPU as their device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from latte_test_support.tiny.latte import tiny_latte
from latte_test_support.tiny.t2v import tiny_model
from torch import Tensor, nn

from latte_core.acceleration import CacheSettings, RunCache
from latte_core.errors import InvalidInputError
from latte_core.memory import BlockStream, WholeLoan, block_groups

CPU, META = torch.device("cpu"), torch.device("meta")
LAYERS = 5


def snapshot(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return which tensors a module holds, and where their numbers are."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors}


def inputs(frames: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, frames, 4, 6, generator=generator)
    return latents, torch.tensor([500]), torch.randn(2, 5, 24, generator=generator)


@pytest.fixture
def model() -> Any:
    return tiny_model(num_layers=LAYERS)


def stream_of(model: nn.Module, device: torch.device = CPU) -> BlockStream:
    return BlockStream(model, block_groups(model), device, smallest=1)


@torch.no_grad()
def test_whole_loan_moves_every_tensor_and_brings_back_the_originals(model: Any) -> None:
    before = snapshot(model)
    loan = WholeLoan(model, META)
    assert {one.device for one in model.parameters()} == {META}
    loan.end()
    assert snapshot(model) == before


def test_whole_loan_keeps_a_shared_tensor_shared() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    loan = WholeLoan(nn.ModuleList([first, second]), META)
    assert first.weight is not None
    assert first.weight.untyped_storage()._cdata == second.weight.untyped_storage()._cdata
    loan.end()
    assert second.weight is first.weight


def test_loan_that_fails_half_way_brings_everything_back(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls, real = snapshot(model), [0], Tensor.to

    def fail_late(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls[0] += 1
        if calls[0] > 4:
            raise torch.OutOfMemoryError("no room")
        return real(tensor, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", fail_late)
    with pytest.raises(torch.OutOfMemoryError):
        WholeLoan(model, META)
    assert snapshot(model) == before


@torch.no_grad()
@pytest.mark.parametrize("is_temporal", [True, False])
def test_streamed_model_computes_the_same_bits(model: Any, is_temporal: bool) -> None:
    expected = model(*inputs(), enable_temporal_attention=is_temporal)
    before, stream = snapshot(model), stream_of(model)
    first = model(*inputs(), enable_temporal_attention=is_temporal)
    second = model(*inputs(), enable_temporal_attention=is_temporal)
    stream.end()
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert snapshot(model) == before


@torch.no_grad()
def test_text_projected_before_the_run_passes_through_the_stream(model: Any) -> None:
    latents, timesteps, context = inputs()
    expected = model(latents, timesteps, context)
    stream = stream_of(model)
    text = model.project_text(context)
    assert torch.equal(model(latents, timesteps, text=text), expected)
    stream.end()


@torch.no_grad()
def test_stream_loads_each_group_once_a_pass_and_the_next_one_ahead(model: Any) -> None:
    latents, timesteps, context = inputs()
    text = model.project_text(context)
    stream = stream_of(model)
    model(latents, timesteps, text=text)
    assert stream.num_loads == LAYERS + 1  # the first group of the next pass is on its way
    model(latents, timesteps, text=text)
    assert stream.num_loads == 2 * LAYERS + 1
    stream.end()


@torch.no_grad()
def test_no_more_than_two_groups_are_away_from_home_at_any_time(model: Any) -> None:
    home = {id(one) for one in model.parameters()}
    seen: list[int] = []

    def count(*_: object) -> None:
        away = [
            any(id(tensor) not in home for block in group for tensor in block.parameters())
            for group in block_groups(model)
        ]
        seen.append(sum(away))

    stream = stream_of(model)
    for group in block_groups(model):
        group[0].attn1.to_q.register_forward_hook(count)
    model(*inputs())
    stream.end()
    assert max(seen) == 2
    assert len(seen) == LAYERS


def test_slots_have_room_for_two_groups_and_small_tensors_stay_outside(model: Any) -> None:
    per_group = sum(
        one.numel() * 4 for block in block_groups(model)[0] for one in block.parameters()
    )
    everything = stream_of(model)
    everything.end()
    large = BlockStream(model, block_groups(model), CPU, smallest=500)
    only_large = large.slot_bytes
    large.end()
    stream = stream_of(model)
    assert 2 * per_group <= stream.slot_bytes <= 2 * per_group + 2 * 60 * 256
    assert 0 < only_large < stream.slot_bytes
    stream.end()
    assert stream.slot_bytes == 0


@torch.no_grad()
def test_skipped_blocks_and_a_cache_get_the_right_weights(model: Any) -> None:
    latents, _, context = inputs()
    text = model.project_text(context)

    def run() -> list[Tensor]:
        cache = RunCache(CacheSettings(policy="static", speed_up=2.0), model, num_steps=6)
        made: list[Tensor] = []
        for step in range(6):
            time = torch.tensor([900 - 150 * step])

            def call(rows: slice, hooks: Any, time: Tensor = time) -> Tensor:
                return model(latents[rows], time, text=text, hooks=hooks)

            made.append(cache.predict(2, float(time[0]), call))
        assert cache.close().skipped_steps > 0
        return made

    expected = run()
    stream = stream_of(model)
    found = run()
    stream.end()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_streamed_class_model_computes_the_same_bits(variant: int) -> None:
    model = tiny_latte(variant=variant)
    latents = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    given = latents, torch.tensor([7, 500]), torch.tensor([0, 1])
    expected = model(*given)
    stream = stream_of(model)
    found = model(*given)
    stream.end()
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2])
def test_streams_of_one_or_two_groups_work_too(count: int) -> None:
    model = tiny_model(num_layers=count)
    expected = model(*inputs())
    stream = stream_of(model)
    assert torch.equal(model(*inputs()), expected)
    assert torch.equal(model(*inputs()), expected)
    stream.end()


@torch.no_grad()
def test_a_turned_matrix_keeps_its_order(model: Any) -> None:
    layer = model.transformer_blocks[0].attn1.to_q
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    stream = stream_of(model)
    model(*inputs())
    assert layer.weight.t().is_contiguous()
    stream.end()


def test_other_modules_cannot_be_streamed() -> None:
    with pytest.raises(InvalidInputError, match="Linear cannot be streamed"):
        block_groups(nn.Linear(2, 2))
