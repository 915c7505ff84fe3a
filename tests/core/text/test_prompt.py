"""Prompt cleaning: the reference's vectors, its rules, and any text at all."""

from __future__ import annotations

import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_core.errors import InvalidInputError, MissingDependencyError
from latte_core.text.prompt import clean_caption, clean_twice, prepare_prompt

# (typed, cleaned in two passes); written with escapes because source files are ASCII
VECTORS = [
    (
        "Yellow and black tropical fish dart through the sea.",
        "yellow and black tropical fish dart through the sea.",
    ),
    (
        "A <person> walking, see https://example.com/a.png and www.site.org/x!",
        "a person walking, see and !",
    ),
    (
        "4k video of a cat -- high-quality, ultra_detailed, 1920x1080, page 12",
        "4k video of a cat - high-quality, ultra_detailed,",
    ),
    (
        "\u201cFancy\u201d quotes & dashes \u2014 here\u2026 "
        "#123 #12345 1234567 (brackets) [x]|{y}",
        '"fancy" quotes dashes - here\u2026 brackets x y',
    ),
    ("50%25 off+free shipping click for more IMG1234 abc12def 12ab34", "50% off"),
    (
        "\u4e2d\u6587 prompt \u718a\u732b panda \u5403\u7af9\u5b50",
        "prompt panda",
    ),
    ("@nickname hello 192.168.1.1 file.jpg", "hello"),
    ("'quoted'", "quoted"),
    ("-leading dash and trailing-", "leading dash and trailing"),
    ("one-two-three-four-five", "one two three four five"),
    ("a . b .. c ... d", "a b c d"),
    ("a,b/c.d", "a, b c. d"),
    ("Caf\u00e9 na\u00efve \u00d72 3\u00d74", "caf\u00e9 na\u00efve \u00d72"),
    ("", ""),
]

# Pieces that trigger rules, alone and next to each other.
PIECES = (
    "a cat Dog -- - _ . .. , : http://a.b/c www.site.org/x https: x.com x.com@y a.png b.jpg!z .png "
    "&quot; &amp; &amp &foo; &lt;b&gt; <b>hi</b> < 192.168.1.1 #12 #1234 #12345 1234567 jc6640 "
    "ab12cd 12ab34 a1b2c3 1920x1080 3\u00d74.5 1\u04452 free shipping worldwide download click on "
    "for more images page 12 \u4e2d \u201c \u2019 ' \" + %20 %C3%A9 \u00e9 \u00c3\u00a9 \\n \\ / | "
    "~ \u00bf @nick it \u2014 \u301c \u3042 \u0130 \u017f \u0661\u0662 ( ] * ; \ufb01"
).split(" ") + [" ", "  ", "\n", "\t", "1:23  ", " : ", "\u2028", "\x00"]


@pytest.mark.parametrize(("typed", "cleaned"), VECTORS)
def test_cleaning_matches_the_published_vector(typed: str, cleaned: str) -> None:
    assert prepare_prompt(typed) == cleaned


def test_two_passes_find_more_than_one() -> None:
    typed = "a 50%2525 discount"

    assert clean_caption(typed) == "a 50%25 discount"
    assert prepare_prompt(typed) == clean_twice(typed) == "a 50% discount"


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:The input:UserWarning")  # the reference lets them through
def test_cleaning_equals_diffusers_on_random_mixtures_of_rules() -> None:
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.LattePipeline
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(2000)]

    # The pipeline is only asked for its pattern, so its class stands in for an instance.
    expected = [reference._clean_caption(reference, text) for text in texts]

    assert [clean_caption(text) for text in texts] == expected


def test_switched_off_cleaning_only_lowers_and_strips() -> None:
    typed = "  \u4e2d\u6587 A  1920x1080 Clip, page 3 "

    assert prepare_prompt(typed, clean_caption=False) == "\u4e2d\u6587 a  1920x1080 clip, page 3"


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_r29_any_text_gives_text_that_utf8_can_hold(typed: str) -> None:
    assert prepare_prompt(typed).encode("utf-8") is not None
    assert prepare_prompt(typed, clean_caption=False).encode("utf-8") is not None


@given(st.lists(st.sampled_from([*PIECES, "\ud800", "<![", "<!--", "<?xml"]), max_size=12))
@settings(deadline=None, max_examples=200)
def test_r29_any_mixture_of_rules_gives_text_without_outer_blanks(pieces: list[str]) -> None:
    cleaned = prepare_prompt("".join(pieces))

    assert cleaned == cleaned.strip()


def test_r29_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    assert prepare_prompt("a \ud83d\ude00 \ud800 b", clean_caption=False) == "a \U0001f600 \ufffd b"


def test_markup_that_no_parser_accepts_is_kept_as_text() -> None:
    assert "cat" in prepare_prompt("a cat <![ and a dog")


@pytest.mark.parametrize(
    "typed",
    [
        "a red cat runs over the hill " * 35_000,
        "\u4e2d" * 1_000_000,
        " " * 1_000_000 + "a cat",
        " ." * 500_000,
        "1" * 1_000_000,
        "a-" * 500_000,
        "_1" * 500_000,
        "1" * 16_000 + "a",
    ],
    ids=["words", "chinese", "blanks", "dots", "digits", "dashes", "codes", "one_number"],
)
def test_r28_a_million_characters_take_under_a_second(typed: str) -> None:
    start = time.process_time()
    prepare_prompt(typed)

    assert time.process_time() - start < 1.0


def test_r28_a_long_prompt_begins_as_its_first_words_do() -> None:
    words = "A Red Cat runs, over the hill. " * 2000

    assert prepare_prompt(words)[:3000] == prepare_prompt(words[:16_000])[:3000]


def test_a_very_long_prompt_is_cleaned_in_pieces_cut_at_blanks() -> None:
    cleaned = prepare_prompt("A<b>B</b> " * 5000)

    assert cleaned.startswith("ab ab ")
    assert "<" not in cleaned[:8000]
    assert "<b>" in cleaned[8000:]


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["a"]])
def test_a_prompt_that_is_not_text_is_refused_by_type(value: object) -> None:
    with pytest.raises(InvalidInputError, match=type(value).__name__):
        prepare_prompt(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["ftfy", "bs4"])
def test_missing_cleaning_package_is_named_with_the_install_line(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(
        MissingDependencyError, match=rf"{package}.*pip install ftfy beautifulsoup4"
    ):
        prepare_prompt("a <b>cat</b>")

    assert prepare_prompt("A <b>cat</b>", clean_caption=False) == "a <b>cat</b>"
