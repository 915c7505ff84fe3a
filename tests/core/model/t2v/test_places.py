"""The spatial table of LatteT2V for the `sample_size` of its config (docs/model.md 5.3)."""

from __future__ import annotations

import math

import pytest
import torch

from latte_core.config.t2v import LatteT2VConfig
from latte_core.model.t2v.blocks import Grid
from latte_core.model.t2v.places import make_tables

CPU = torch.device("cpu")


def spatial_row(width: int, column: float, row: float) -> list[float]:
    """Sines, then cosines of the column, then those of the row, in Python floats."""
    quarter = width // 4
    waves = [10000 ** (-index / quarter) for index in range(quarter)]
    halves = [
        [turn(place * wave) for turn in (math.sin, math.cos) for wave in waves]
        for place in (column, row)
    ]
    return halves[0] + halves[1]


@pytest.mark.parametrize(
    ("sample_size", "scale"),
    [(32, 1), (64, 1), (96, 1), (127, 1), (128, 2), (160, 2), (191, 2), (192, 3), (256, 4)],
)
def test_places_are_divided_by_how_often_64_is_in_the_sample_size(
    sample_size: int, scale: int
) -> None:
    config = LatteT2VConfig(
        sample_size=sample_size,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
    )
    rows, columns, base = 3, 5, sample_size / config.patch_size
    grid = Grid(batch=1, num_frames=2, rows=rows, columns=columns)
    table = make_tables(config, grid, None, CPU).spatial
    expected = [
        spatial_row(16, column / (columns / base) / scale, row / (rows / base) / scale)
        for row in range(rows)
        for column in range(columns)
    ]
    # float32 coordinates up to 102 against float64 ones
    torch.testing.assert_close(table, torch.tensor(expected), rtol=0, atol=2e-5)
