"""Several videos side by side."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latte_core.errors import InvalidInputError
from latte_core.video import Grid, enlarge, enlarge_one_by_one


@given(st.integers(1, 40), st.none() | st.integers(1, 50))
def test_every_video_has_a_place_and_no_row_is_empty(count: int, columns: int | None) -> None:
    grid = Grid.of(count, columns)
    assert grid.rows * grid.columns >= count > (grid.rows - 1) * grid.columns
    assert grid.columns <= (count if columns is None else columns)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (8, (3, 3)), (9, (3, 3))])
def test_grid_is_about_as_wide_as_high(count: int, shape: tuple[int, int]) -> None:
    grid = Grid.of(count)
    assert (grid.rows, grid.columns) == shape


def test_videos_stand_row_by_row_with_black_between() -> None:
    videos = [torch.full((2, 4, 6, 3), number + 1, dtype=torch.uint8) for number in range(5)]
    videos[4][1] = 9
    grid = Grid.of(5, 3)
    joined = grid.join(videos)
    assert joined.shape == (2, *grid.size(4, 6), 3) == (2, 10, 22, 3)
    corners = joined[0, ::6, ::8, 0]
    assert corners.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert joined[1, 6:, 8:14].eq(9).all()
    assert joined[:, 4:6].eq(0).all() and joined[:, :, 6:8].eq(0).all()


def test_videos_of_other_sizes_or_too_many_are_refused() -> None:
    video = torch.zeros(2, 4, 4, 3)
    with pytest.raises(InvalidInputError, match="do not fit"):
        Grid.of(2).join([video, torch.zeros(2, 4, 6, 3)])
    with pytest.raises(InvalidInputError, match="do not fit"):
        Grid.of(2).join([video] * 3)
    with pytest.raises(InvalidInputError, match="columns"):
        Grid.of(2, 0)


def test_streams_join_to_the_same_frames() -> None:
    videos = [torch.rand(3, 4, 6, 3, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    grid = Grid.of(5, 3)

    stream = grid.join_one_by_one([enlarge_one_by_one(video, 2) for video in videos])

    assert (stream.num_frames, stream.height, stream.width) == (3, *grid.size(8, 12))
    joined = grid.join([enlarge(video, 2) for video in videos])
    assert torch.equal(torch.stack(list(stream.checked())), joined)
