"""Copies that nobody waits for, and runs on a card that break or are measured on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from latte_fake_cuda import CaptureError, fake_cuda
from latte_test_support.card_runs import STEPS, card_for, make_class, make_text
from torch import Tensor

from latte_core.errors import NonFiniteError
from latte_core.sampling import sample
from latte_core.sampling.finite import AHEAD
from latte_core.transfers import pinned, send, send_into

pytestmark = pytest.mark.fake_cuda
CARD = torch.device("cuda:0")
SHAPE = (1, 4, 2, 4, 4)


def test_tensor_is_sent_from_pinned_memory_without_waiting() -> None:
    source = torch.arange(6.0)
    with fake_cuda() as card:
        made, place = send(source, CARD), torch.zeros(6, device=CARD)
        send_into(place, source)
        assert made.is_cuda
        assert made.cpu().tolist() == place.cpu().tolist() == source.tolist()
        sent = [one for one in card.copies if one.direction == "to card"]
    assert [(one.is_pinned, one.is_non_blocking) for one in sent] == [(True, True)] * 2


def test_tensor_that_is_there_is_not_copied() -> None:
    source = torch.ones(3)
    assert send(source, torch.device("cpu")) is source
    with fake_cuda() as card:
        there = torch.ones(3, device=CARD)
        assert send(there, CARD) is there
        send_into(torch.zeros(3, device=CARD), there)
        ready = pinned(source)
        assert pinned(ready) is ready
        assert card.copies == []


def test_where_no_memory_can_be_pinned_the_copy_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Tensor, *_: Any) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    with fake_cuda() as card:
        assert send(torch.ones(3), CARD).cpu().tolist() == [1.0] * 3
        assert [one.is_pinned for one in card.copies if one.direction == "to card"] == [False]


def test_graph_under_way_takes_no_copy_from_the_host() -> None:
    with fake_cuda():
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(CaptureError), torch.cuda.graph(graph):
            send(torch.ones(3), CARD)


class SlowEvent:
    """An event that is reached when it is waited for."""

    waits = 0

    def __init__(self, **_: Any) -> None:
        self._is_reached = False

    def record(self, stream: Any = None) -> None:
        """Mark a place."""

    def query(self) -> bool:
        return self._is_reached

    def synchronize(self) -> None:
        type(self).waits += 1
        self._is_reached = True


@pytest.mark.parametrize("broken", [0, 3, 6, 7])
def test_run_that_breaks_on_the_card_names_its_step(
    broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        assert latents.is_cuda
        calls.append(float(timesteps[0]))
        return latents * (float("nan") if len(calls) == broken + 1 else 0.1)

    with fake_cuda() as card:
        monkeypatch.setattr(torch.cuda, "Event", SlowEvent)
        with pytest.raises(NonFiniteError, match=rf"step {broken + 1} of 8 "):
            sample(predict, torch.ones(SHAPE), num_steps=8, device=CARD)
        assert card.read_backs == []
    assert len(calls) == min(broken + 1 + AHEAD, 8)


def test_host_is_at_most_two_steps_ahead_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        return 0.1 * latents

    with fake_cuda():
        monkeypatch.setattr(torch.cuda, "Event", type("Event", (SlowEvent,), {"waits": 0}))
        event: Any = torch.cuda.Event
        sample(
            predict,
            torch.ones(SHAPE),
            num_steps=6,
            device=CARD,
            callback=lambda _: waits.append(event.waits),
        )
        assert waits == [0, 0, 1, 2, 3, 4]
        assert event.waits == 6


@pytest.mark.parametrize("cache", ["teacache:0.15", "first-block:0.1"])
@pytest.mark.parametrize("kind", ["text", "class"])
def test_measured_cache_waits_in_no_step_that_is_computed_anyway(
    text_folder: Path, class_folders: dict[int, Path], cache: str, kind: str
) -> None:
    with card_for() as card:
        if kind == "text":
            make_text(text_folder, card, cache=cache, output="latents")
        else:
            make_class(class_folders[1], card, cache=cache, class_labels=2, output="latents")
    waits = [row.read_backs for row in card.step_table()][1:STEPS]
    assert waits == [1] * (STEPS - 2) + [0]
