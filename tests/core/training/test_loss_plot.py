"""The plot of a log that grows: each line is read once, and long runs cost no more than short."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.tiny.training import tiny_config, write_set

from latte_core.training.plot import MOST_PARTS, LossCurve, LossPlot, draw_losses, smooth
from latte_core.training.run import train
from latte_core.training.run_log import LogReader


def lines(steps: range) -> str:
    return "".join(json.dumps({"step": k, "loss": loss_at(k)}) + "\n" for k in steps)


def loss_at(step: int) -> float:
    return math.exp(-step / 20) + 0.1 * (step % 3) + 0.01


def steps_of(found: tuple[bool, list[dict[str, float]]]) -> list[float]:
    return [entry["step"] for entry in found[1]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def add(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as handle:
        handle.write(text)


def test_each_line_of_a_growing_log_is_read_once(log: Path) -> None:
    reader = LogReader(log)
    assert reader.read() == (False, [])
    for start in (0, 5, 10):
        add(log, lines(range(start, start + 5)))
        found = reader.read()
        assert not found[0]
        assert steps_of(found) == list(range(start, start + 5))
    assert reader.read() == (False, [])


def test_a_line_is_read_when_it_is_whole(log: Path) -> None:
    reader = LogReader(log)
    text = lines(range(2))
    add(log, text[:-9])
    assert steps_of(reader.read()) == [0]
    add(log, text[-9:])
    assert steps_of(reader.read()) == [1]


@pytest.mark.parametrize(
    "damage", [b'{"step": 1, "lo\n', b"\0\0\0\0\n", b"\xff\xfe\n", b"[1, 2]\n", b"7\n", b"\n"]
)
def test_damaged_lines_are_left_out(damage: bytes, log: Path) -> None:
    log.write_bytes(lines(range(2)).encode() + damage + lines(range(2, 4)).encode())
    assert steps_of(LogReader(log).read()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [range(0), range(3), range(8), range(100, 108), range(100, 200)],
    ids=["emptied", "cut", "cut and grown", "replaced by one as long", "replaced by a longer one"],
)
def test_another_log_in_its_place_is_read_from_the_start(other: range, log: Path) -> None:
    add(log, lines(range(10)))
    reader = LogReader(log)
    reader.read()
    log.write_text(lines(other), encoding="utf-8")
    begins, entries = reader.read()
    assert begins
    assert steps_of((begins, entries)) == list(other)


def test_a_log_that_was_removed_begins_anew(log: Path) -> None:
    add(log, lines(range(3)))
    reader = LogReader(log)
    reader.read()
    log.unlink()
    assert reader.read() == (True, [])
    add(log, lines(range(2)))
    assert steps_of(reader.read()) == [0, 1]


def test_plot_of_a_growing_log_is_that_of_its_losses(log: Path, tmp_path: Path) -> None:
    plot = LossPlot(log, tmp_path / "grown.png")
    for start in range(0, 120, 40):
        add(log, lines(range(start, start + 40)))
        plot.draw()
        draw_losses(tmp_path / "whole.png", [(k, loss_at(k)) for k in range(start + 40)])
        assert (tmp_path / "grown.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    log.write_text(lines(range(7)), encoding="utf-8")
    plot.draw()
    draw_losses(tmp_path / "whole.png", [(k, loss_at(k)) for k in range(7)])
    assert (tmp_path / "grown.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_short_run_is_drawn_whole() -> None:
    points = [(float(k), loss_at(k)) for k in range(MOST_PARTS)]
    curve = LossCurve()
    for point in points:
        curve.add(point)
    assert curve.shown() == points
    assert curve.means() == smooth(points)


@pytest.mark.parametrize("count", [MOST_PARTS + 1, 3 * MOST_PARTS + 1, 16 * MOST_PARTS + 5])
def test_long_run_is_drawn_by_its_extremes(count: int) -> None:
    points = [(float(k), loss_at(k)) for k in range(count)]
    points[count // 2] = (count / 2 + 0.25, 9.0)
    curve = LossCurve()
    for point in points:
        curve.add(point)
    shown, means = curve.shown(), curve.means()
    assert len(shown) <= 2 * MOST_PARTS + 2
    assert MOST_PARTS / 2 <= len(means) <= MOST_PARTS
    assert (shown[0], shown[-1]) == (points[0], points[-1])
    assert shown == sorted(shown)
    assert set(shown) <= set(points)
    assert (count / 2 + 0.25, 9.0) in shown
    assert min(shown, key=lambda one: one[1])[1] == min(y for _, y in points)
    assert set(means) <= set(smooth(points))
    assert means[-1] == smooth(points)[-1]


def test_a_report_reads_its_own_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set")
    read: list[Any] = []
    loads = json.loads

    def counted(text: Any, *args: Any, **kwargs: Any) -> Any:
        read.extend([text] if "clips_per_second" in str(text) else [])
        return loads(text, *args, **kwargs)

    monkeypatch.setattr(json, "loads", counted)
    config = tiny_config(tmp_path / "set", tmp_path / "run", num_steps=6, log_every=1)
    train(config, device="cpu")
    status = 1  # is read at the end
    assert len(read) == 6 + status
