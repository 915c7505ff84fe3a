"""Position tables against the printed values of the formulas (docs/model.md 16)."""

from __future__ import annotations

import pytest
import torch

from latte_core.model.layers import timestep_features
from latte_core.model.positional import spatial_table, temporal_table

CPU = torch.device("cpu")


def printed(value: float, digits: str) -> bool:
    """True when `value`, written with as many digits as `digits`, reads the same."""
    return value == pytest.approx(float(digits), rel=0, abs=0.51 * last_place(digits))


def last_place(digits: str) -> float:
    mantissa, _, exponent = digits.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (1, "0.841471 0.832795 0.824051 0.000101612 0.540302 0.553582 1.0"),
        (15, "0.650288 0.811029 0.924636 0.00152418 -0.759688 -0.585006 0.999999"),
    ],
)
def test_temporal_table_has_the_printed_digits(frame: int, expected: str) -> None:
    row = temporal_table(1152, 16, CPU)[frame]
    for index, digits in zip((0, 1, 2, 575, 576, 577, 1151), expected.split(), strict=True):
        assert printed(float(row[index]), digits), (index, float(row[index]), digits)


def test_spatial_table_encodes_column_first_then_row() -> None:
    table = spatial_table(1152, 32, 32, 32, 1, CPU)
    row = table[5 * 32 + 3]
    expected = "0.141120 0.233831 -0.989992 -0.958924 -0.991531 0.283662"
    for index, digits in zip((0, 1, 288, 576, 577, 864), expected.split(), strict=True):
        assert printed(float(row[index]), digits), (index, float(row[index]), digits)


def test_spatial_table_is_stretched_over_the_trained_side() -> None:
    row = spatial_table(1152, 16, 24, 32, 1, CPU)[5 * 24 + 3]
    assert printed(float(row[0]), "-0.756802")
    assert printed(float(row[576]), "-0.544021")


def test_timestep_features_have_the_printed_digits() -> None:
    row = timestep_features(torch.tensor([7]))[0]
    expected = "0.753902 0.973479 1.000000 0.656987 0.228775 0.000752225"
    for index, digits in zip((0, 1, 127, 128, 129, 255), expected.split(), strict=True):
        assert printed(float(row[index]), digits), (index, float(row[index]), digits)


def test_timestep_features_accept_fractions_between_whole_steps() -> None:
    low, middle, high = timestep_features(torch.tensor([7.0, 7.5, 8.0]))
    assert not torch.equal(low, middle)
    assert float((middle - (low + high) / 2).abs().max()) < 0.2


def test_longer_temporal_tables_start_with_the_shorter_ones() -> None:
    assert torch.equal(temporal_table(64, 17, CPU)[:16], temporal_table(64, 16, CPU))
