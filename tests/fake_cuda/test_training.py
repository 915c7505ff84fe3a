"""Updates of a training on a card, and what they ask of the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_fake_cuda import Card, fake_cuda
from latte_test_support.card_runs import distance, steps_of
from latte_test_support.tiny.training import CLASS_MODEL, tiny_config, write_set

from latte_core.checkpoint import read_tensors
from latte_core.training.run import train
from latte_core.training.trainer import Trainer

pytestmark = pytest.mark.fake_cuda
CHANGES: dict[str, dict[str, Any]] = {
    "text": {},
    "class": {"architecture": CLASS_MODEL},
    "joint": {"num_images": 2},
}
UPDATES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set with captions and classes."""
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    return folder


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """Have a card that is told when an update begins."""
    plain = Trainer.update
    with fake_cuda() as card, monkeypatch.context() as patch:

        def update(self: Trainer, *given: Any) -> None:
            card.next_step()
            plain(self, *given)

        patch.setattr(Trainer, "update", update)
        yield card


def run(data: Path, output: Path, device: str, **changes: Any) -> Path:
    """Train for a few updates that report nothing on the way."""
    given = {"num_steps": UPDATES, "log_every": UPDATES, "save_every": UPDATES, **changes}
    return train(tiny_config(data, output, **given), device=device)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Return what a training has written."""
    return dict(read_tensors(folder / "transformer").tensors)


@pytest.mark.parametrize("kind", CHANGES)
def test_training_on_the_card_gives_the_weights_of_the_cpu(
    data: Path, tmp_path: Path, kind: str
) -> None:
    changes = CHANGES[kind]
    expected = weights_in(run(data, tmp_path / "cpu", "cpu", **changes))
    with fake_cuda():
        found = weights_in(run(data, tmp_path / "card", "cuda", **changes))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert distance(found[name], value) < 1e-3, name


@pytest.mark.parametrize("kind", CHANGES)
def test_update_neither_copies_from_pageable_memory_nor_waits(
    data: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as card:
        run(data, tmp_path / "run", "cuda", **CHANGES[kind])
    rows = steps_of(card)
    assert len(rows) == UPDATES - 1
    assert [row.pageable_copies for row in rows] == [0] * len(rows), card.report()
    assert [row.read_backs for row in rows] == [0] * len(rows), card.report()
