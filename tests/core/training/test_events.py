"""TensorBoard events and the picture of the losses, read back."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

from latte_core.training.events import EventWriter
from latte_core.training.plot import draw_losses, smooth


def test_reports_are_scalars_that_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writer = EventWriter(tmp_path)
    for step in (1, 2):
        writer.add({"step": step, "loss": 1.0 / step, "rate": 0.5})
    writer.close()
    reader: Any = importlib.import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(tmp_path))
    reader.Reload()
    assert sorted(reader.Tags()["scalars"]) == ["train/loss", "train/rate"]
    values = [(one.step, one.value) for one in reader.Scalars("train/loss")]
    assert values == [(1, 1.0), (2, 0.5)]


def test_without_tensorboard_a_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO", logger="latte"):
        writer = EventWriter(tmp_path)
        writer.add({"step": 1, "loss": 1.0})
        writer.close()
    assert "tensorboard is not installed" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, 0.5)],
        [(1, 0.5), (2, 0.25)],
        [(10 * k, math.exp(-k / 20) + 0.1 * (k % 2)) for k in range(100)],
        [(1, float("nan")), (2, 0.0), (3, 1.0)],
        [(1, 0.5), (2, 0.5)],
    ],
)
def test_any_losses_can_be_drawn(points: list[tuple[float, float]], tmp_path: Path) -> None:
    image = importlib.import_module("PIL.Image")
    draw_losses(tmp_path / "loss.png", points)
    with image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (960, 480)
        colors = picture.convert("RGB").getcolors(2**20)
    drawn = [color for _, color in colors]
    shown = [y for _, y in points if y > 0]
    assert ((20, 90, 170) in drawn) is bool(shown)


def test_smoothed_losses_start_at_the_first_and_follow_a_constant() -> None:
    level = smooth([(0, 3.0), (1, 3.0), (2, 3.0)])
    assert [x for x, _ in level] == [0, 1, 2]
    assert [y for _, y in level] == pytest.approx([3.0, 3.0, 3.0])
    values = [y for _, y in smooth([(k, float(k)) for k in range(50)])]
    assert values[0] == 0
    assert 40 < values[-1] < 49
