"""Class labels: UCF101's order, and names in any spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_core.config.class_names import find_class, known_names
from latte_core.config.ucf101 import UCF101_CLASSES
from latte_core.errors import InvalidInputError

COLORS = ("red circle", "blue circle", "blue square")


def test_ucf101_has_101_different_names_sorted_as_its_folders_are() -> None:
    folders = [name.replace(" ", "") for name in UCF101_CLASSES]
    assert len(set(folders)) == len(folders) == 101
    assert folders == sorted(folders)
    assert all(word[0].isupper() for name in UCF101_CLASSES for word in name.split(" "))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "Apply Eye Makeup"),
        (34, "Hammer Throw"),
        (35, "Hammering"),
        (46, "Jump Rope"),
        (47, "Jumping Jack"),
        (62, "Playing Guitar"),
        (73, "Rock Climbing Indoor"),
        (100, "Yo Yo"),
    ],
)
def test_labels_of_ucf101_are_those_the_weights_were_trained_with(number: int, name: str) -> None:
    assert UCF101_CLASSES[number] == name
    assert find_class(name, UCF101_CLASSES, 101) == number


@pytest.mark.parametrize(
    "spelling",
    ["Playing Guitar", "PlayingGuitar", "playing_guitar", " PLAYING-guitar ", "62", " 62 "],
)
def test_any_spelling_of_a_name_is_found(spelling: str) -> None:
    assert find_class(spelling, UCF101_CLASSES, 101) == 62


@given(st.integers(0, 100), st.data())
def test_letter_case_and_gaps_never_matter(number: int, data: st.DataObject) -> None:
    pieces: list[str] = []
    for letter in UCF101_CLASSES[number]:
        gap = data.draw(st.sampled_from(["", " ", "_", "-"]))
        pieces.append(gap + data.draw(st.sampled_from([letter.lower(), letter.upper()])))
    assert find_class("".join(pieces), UCF101_CLASSES, 101) == number


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("playing gitar", "Playing Guitar"),
        ("blue sqare", "blue square"),
        ("Dancing", "Ice Dancing"),
    ],
)
def test_nearest_names_are_suggested(name: str, suggestion: str) -> None:
    names = COLORS if "blue" in name else UCF101_CLASSES
    with pytest.raises(InvalidInputError, match=f'Did you mean .*"{suggestion}"'):
        find_class(name, names, len(names))


def test_name_unlike_all_others_gets_no_suggestion() -> None:
    with pytest.raises(InvalidInputError, match="There is no class 'zzzz'. This model has 3"):
        find_class("zzzz", COLORS, 3)


@pytest.mark.parametrize("label", [-1, 102, "-1", "102", True])
def test_number_out_of_range_is_refused(label: str | int) -> None:
    with pytest.raises(InvalidInputError, match="0 to 100, and 101 means any class"):
        find_class(label, UCF101_CLASSES, 101)


def test_null_class_is_allowed_and_names_of_other_models_are_unknown() -> None:
    assert find_class(101, UCF101_CLASSES, 101) == 101
    assert known_names(101) == UCF101_CLASSES
    assert known_names(12) == ()
    with pytest.raises(InvalidInputError, match="Give a number from 0 to 11"):
        find_class("red", (), 12)
