"""A picture of the losses of a run, drawn with Pillow, which diffusers brings along."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..files import atomic_write

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (200, 200, 200)
FAINT, CURVE = (170, 200, 235), (20, 90, 170)
SMOOTHING = 0.9  # share of the running mean that each point keeps
NUM_TICKS = 5

Point = tuple[float, float]


def draw_losses(path: Path, points: Sequence[Point]) -> None:
    """Write a PNG of losses over updates: each report faint, their running mean in front.

    Args:
        path: the picture.
        points: (update, loss); losses that are not positive are left out of a logarithmic plot.

    Raises:
        MissingDependencyError: without Pillow.
    """
    pillow: Any = import_pillow()
    picture = pillow.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw: Any = importlib.import_module("PIL.ImageDraw").Draw(picture)
    shown = [(x, y) for x, y in points if math.isfinite(y) and y > 0]
    if shown:
        axes = Axes(shown)
        axes.draw(draw)
        if len(shown) == 1:
            x, y = axes.place(shown[0])
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=CURVE)
        else:
            draw.line([axes.place(point) for point in shown], fill=FAINT, width=1)
            draw.line([axes.place(point) for point in smooth(shown)], fill=CURVE, width=3)
    title = f"loss, {points[-1][0]:.0f} updates" if points else "loss: no update yet"
    draw.text((LEFT, 12), title, fill=INK, font_size=16)
    with atomic_write(path) as partial:
        picture.save(partial, format="PNG")


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


def smooth(points: Sequence[Point]) -> list[Point]:
    """Return a running mean without the pull of its start towards zero."""
    mean = weight = 0.0
    found: list[Point] = []
    for x, y in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * y
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        found.append((x, mean / weight))
    return found


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
