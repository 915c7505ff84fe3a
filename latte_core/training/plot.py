"""A picture of the losses of a run, drawn with Pillow, which diffusers brings along."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..files import atomic_write
from .run_log import LogReader

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (200, 200, 200)
FAINT, CURVE = (170, 200, 235), (20, 90, 170)
SMOOTHING = 0.9  # share of the running mean that each point keeps
NUM_TICKS = 5
MOST_PARTS = 2048  # half of them are more than there are columns in the plot

Point = tuple[float, float]


def draw_losses(path: Path, points: Sequence[Point]) -> None:
    """Write a PNG of losses over updates, see `LossCurve`.

    Args:
        path: the picture.
        points: (update, loss).

    Raises:
        MissingDependencyError: without Pillow.
    """
    curve = LossCurve()
    for point in points:
        curve.add(point)
    curve.draw(path)


class LossCurve:
    """The losses of a run: each report faint, their running mean in front.

    However long the run, what is kept and drawn is `MOST_PARTS` parts of equally many reports: of
    each the lowest and the highest loss, and the mean at its end. Up to that many reports nothing
    is left out. Losses that are not positive are left out of a logarithmic plot.
    """

    def __init__(self) -> None:
        self._last_update: float | None = None
        self._ends: list[Point] = []  # the first and the last report that is shown
        self._mean = RunningMean()
        self._parts: list[Part] = []
        self._size = 1  # reports in each part but the last
        self._in_last = 0

    def add(self, point: Point) -> None:
        """Add a report: (update, loss)."""
        x, y = point
        self._last_update = x
        if not (math.isfinite(y) and y > 0):
            return
        self._ends = [*self._ends[:1], point]
        part = Part(points=(point,), mean=(x, self._mean.add(y)))
        if self._in_last % self._size:
            part = self._parts.pop().joined(part)
            self._in_last += 1
        else:
            self._in_last = 1
        self._parts.append(part)
        if len(self._parts) > MOST_PARTS:
            pairs = zip(self._parts[::2], self._parts[1::2], strict=False)
            odd = self._parts[len(self._parts) - len(self._parts) % 2 :]
            self._parts = [*(first.joined(second) for first, second in pairs), *odd]
            self._size *= 2

    def draw(self, path: Path) -> None:
        """Write the picture.

        Raises:
            MissingDependencyError: without Pillow.
        """
        pillow: Any = import_pillow()
        picture = pillow.new("RGB", (WIDTH, HEIGHT), PAPER)
        draw: Any = importlib.import_module("PIL.ImageDraw").Draw(picture)
        shown = self.shown()
        if shown:
            axes = Axes(shown)
            axes.draw(draw)
            if len(shown) == 1:
                x, y = axes.place(shown[0])
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=CURVE)
            else:
                draw.line([axes.place(point) for point in shown], fill=FAINT, width=1)
                draw.line([axes.place(mean) for mean in self.means()], fill=CURVE, width=3)
        title = "loss: no update yet"
        if self._last_update is not None:
            title = f"loss, {self._last_update:.0f} updates"
        draw.text((LEFT, 12), title, fill=INK, font_size=16)
        with atomic_write(path) as partial:
            picture.save(partial, format="PNG")

    def shown(self) -> list[Point]:
        """Return the reports that are drawn, the first and the last among them."""
        found = [point for part in self._parts for point in part.points]
        if not found:
            return found
        first, last = self._ends[0], self._ends[-1]
        return [
            *((first,) if found[0] != first else ()),
            *found,
            *((last,) if found[-1] != last else ()),
        ]

    def means(self) -> list[Point]:
        """Return the running mean as it is drawn."""
        return [part.mean for part in self._parts]


class LossPlot:
    """Draws the losses in a log that grows, and reads each of its lines once.

    Args:
        log: see `LogReader`.
        picture: where the plot goes.
    """

    def __init__(self, log: Path, picture: Path) -> None:
        self._log = LogReader(log)
        self._picture = picture
        self._curve = LossCurve()

    def read(self) -> None:
        """Take up what the log has gained."""
        begins, entries = self._log.read()
        if begins:
            self._curve = LossCurve()
        for entry in entries:
            if "loss" in entry:
                self._curve.add((entry["step"], entry["loss"]))

    def draw(self) -> None:
        """Write the picture of all losses there are."""
        self.read()
        self._curve.draw(self._picture)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Neighbouring reports of a curve.

    Args:
        points: one or two of them: the lowest and the highest, in their order.
        mean: the running mean at their end.
    """

    points: tuple[Point, ...]
    mean: Point

    def joined(self, other: Part) -> Part:
        """Return this part and the one behind it as one."""
        points = (*self.points, *other.points)
        low, high = min(points, key=loss_of), max(points, key=loss_of)
        return Part(points=(low, high) if low[0] < high[0] else (high, low), mean=other.mean)


def loss_of(point: Point) -> float:
    """Return the loss of a report."""
    return point[1]


class Axes:
    """Where a point of the plot lies in the picture; losses are on a logarithmic axis."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.first, self.last = points[0][0], max(points[-1][0], points[0][0] + 1)
        logs = [math.log10(y) for _, y in points]
        margin = max((max(logs) - min(logs)) * 0.05, 0.02)
        self.low, self.high = min(logs) - margin, max(logs) + margin

    def place(self, point: Point) -> tuple[float, float]:
        """Return the pixel of a point."""
        x = (point[0] - self.first) / (self.last - self.first)
        y = (math.log10(point[1]) - self.low) / (self.high - self.low)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    def draw(self, draw: Any) -> None:
        """Draw frame, ticks and their numbers."""
        corners = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
        draw.rectangle(corners, outline=FRAME)
        for k in range(NUM_TICKS):
            share = k / (NUM_TICKS - 1)
            value = 10 ** (self.low + share * (self.high - self.low))
            step = self.first + share * (self.last - self.first)
            x, y = self.place((step, value))
            draw.line((LEFT, y, WIDTH - RIGHT, y), fill=FRAME)
            draw.text((LEFT - 8, y), f"{value:.3g}", fill=INK, anchor="rm", font_size=13)
            anchor = "mt" if 0 < k < NUM_TICKS - 1 else ("lt" if k == 0 else "rt")
            label = f"{step:.0f}"
            draw.text((x, HEIGHT - BOTTOM + 8), label, fill=INK, anchor=anchor, font_size=13)
        middle = (LEFT + WIDTH - RIGHT) / 2
        draw.text((middle, HEIGHT - 20), "update", fill=INK, anchor="mt", font_size=13)


class RunningMean:
    """A running mean without the pull of its start towards zero."""

    def __init__(self) -> None:
        self._mean = self._weight = 0.0

    def add(self, value: float) -> float:
        """Return the mean with one more value."""
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * value
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._mean / self._weight


def smooth(points: Sequence[Point]) -> list[Point]:
    """Return the running mean at each point."""
    mean = RunningMean()
    return [(x, mean.add(y)) for x, y in points]


def import_pillow() -> Any:
    """Return Pillow's Image module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingDependencyError(
            "The plot of the losses is drawn with the package Pillow, which is not installed. "
            "Run: pip install pillow"
        ) from error
