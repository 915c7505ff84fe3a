"""Step strings to timesteps: the printed examples, and what is refused."""

from __future__ import annotations

import pytest

from latte_core.diffusion import space_timesteps
from latte_core.errors import InvalidInputError

# docs/model.md 7.1: how many, the first and the last ones
EXAMPLES: dict[str, tuple[int, list[int], list[int]]] = {
    "250": (250, [0, 4, 8], [995, 999]),
    "50": (50, [0, 20, 41, 61, 82], [979, 999]),
    "100": (100, [0, 10, 20], [989, 999]),
    "20": (20, [0, 53, 105, 158], [946, 999]),
    "ddim50": (50, [0, 20], [980]),
    "ddim250": (250, [0, 4], [996]),
}


@pytest.mark.parametrize("steps", EXAMPLES)
def test_printed_examples_are_exact(steps: str) -> None:
    count, first, last = EXAMPLES[steps]
    timesteps = list(space_timesteps(steps))
    assert len(timesteps) == count
    assert timesteps[: len(first)] == first
    assert timesteps[-len(last) :] == last


@pytest.mark.parametrize("steps", ["250", "50", "20", "1000", "7", "333,1,100", "ddim334"])
def test_timesteps_rise_without_repetition(steps: str) -> None:
    timesteps = space_timesteps(steps)
    assert list(timesteps) == sorted(set(timesteps))
    assert 0 <= timesteps[0] and timesteps[-1] <= 999


@pytest.mark.parametrize("count", [2, 3, 17, 50, 128, 250, 999])
def test_one_section_is_evenly_spaced_to_within_rounding(count: int) -> None:
    timesteps = space_timesteps(str(count))
    ideal = [index * 999 / (count - 1) for index in range(count)]
    assert max(abs(a - b) for a, b in zip(timesteps, ideal, strict=True)) <= 0.5 + 1e-9


def test_half_is_rounded_to_the_even_neighbour() -> None:
    # (1000 - 1) / (3 - 1) = 499.5; two sections of 500 with three steps each: 249.5
    assert space_timesteps("3") == (0, 500, 999)
    assert space_timesteps("3,3") == (0, 250, 499, 500, 750, 999)


@pytest.mark.parametrize(("steps", "index", "summed"), [("21", 10, 499), ("61", 10, 167)])
def test_distances_are_summed_as_the_reference_sums_them(
    steps: str, index: int, summed: int
) -> None:
    # 10 x 49.95 = 499.5 and 10 x 16.65 = 166.5 lie halfway; the running sums lie beside it
    multiplied = round(index * (999 / (int(steps) - 1)))
    assert space_timesteps(steps)[index] == summed != multiplied


def test_each_section_gets_its_own_count() -> None:
    timesteps = space_timesteps("10,15,20")
    bounds = [(0, 334, 10), (334, 667, 15), (667, 1000, 20)]  # 1000 = 334 + 333 + 333
    for low, high, count in bounds:
        inside = [timestep for timestep in timesteps if low <= timestep < high]
        assert (len(inside), inside[0], inside[-1]) == (count, low, high - 1)


@pytest.mark.parametrize(("steps", "expected"), [("1", (0,)), ("ddim1", (0,)), ("1,1", (0, 500))])
def test_one_step_is_the_first_of_its_section(steps: str, expected: tuple[int, ...]) -> None:
    assert space_timesteps(steps) == expected


@pytest.mark.parametrize(
    ("given", "same"), [(250, "250"), ("DDIM50", "ddim50"), ("10, 15", "10,15")]
)
def test_numbers_capitals_and_spaces_are_understood(given: str | int, same: str) -> None:
    assert space_timesteps(given) == space_timesteps(same)


@pytest.mark.parametrize(
    "steps", ["", "abc", "-5", "2.5", "10,,2", "250,", "ddim", True, None, "1e2"]
)
def test_text_that_is_no_step_string_is_refused_with_examples(steps: object) -> None:
    with pytest.raises(InvalidInputError, match=r"'250', '10,15,20'.*'ddim50'"):
        space_timesteps(steps)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ("0", "0 of the 1000"),
        ("1001", "1001 of the 1000"),
        ("500,501", "501 of the 500 timesteps of section 2 of 2"),
        ("334,333,334", "334 of the 333 timesteps of section 3 of 3"),
        ("1,0", "0 of the 500 timesteps of section 2 of 2"),
    ],
)
def test_more_steps_than_a_section_has_are_refused(steps: str, found: str) -> None:
    with pytest.raises(InvalidInputError, match=found):
        space_timesteps(steps)


@pytest.mark.parametrize(
    ("steps", "advice"),
    [("ddim300", "'ddim334', or '300'"), ("ddim0", "'ddim1', or '1'"), ("ddim2000", "'ddim1000'")],
)
def test_count_without_a_whole_stride_is_refused_with_the_nearest(steps: str, advice: str) -> None:
    with pytest.raises(InvalidInputError, match=f"no whole stride.*{advice}"):
        space_timesteps(steps)
