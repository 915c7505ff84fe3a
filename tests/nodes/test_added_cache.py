"""One more cache is one class and one entry of `CACHES`: everything else reads the entry."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.pack import ROOT, load_pack, load_script
from latte_test_support.tiny.pipeline import PROMPT, SMALL, write_tiny_latte

from latte_core.acceleration.settings import parse_cache
from latte_core.cli.main import main
from latte_core.errors import InvalidInputError
from latte_core.pipelines.text.pipeline import Pipeline

PACK = load_pack()
TEXTS = load_script("node_texts")
CORES = ("latte_core", f"{PACK.__name__}.latte_core")  # alone, and as the nodes import it
PAGE = ROOT / "docs" / "speed.md"
STEPS = 8


def core_part(core: str, name: str) -> Any:
    """Return a module of `acceleration`."""
    return importlib.import_module(f"{core}.acceleration.{name}")


def entry(core: str, watches: str) -> Any:
    """Return a cache that computes every n-th step, and says that it watches something, or not."""
    policies = core_part(core, "policies")

    class EveryNth:
        def __init__(self, *, threshold: float = 2) -> None:
            self.every = int(threshold)

        def decide(self, step: Any, change: float | None, carried: float) -> Any:
            return policies.Verdict(self.planned(step))

        def planned(self, step: Any) -> bool:
            return step.is_end or step.index % self.every == 0

        def check(self, num_steps: int) -> None: ...

    EveryNth.watches = policies.Watch[watches]  # type: ignore[attr-defined]
    return core_part(core, "settings").StepByStep(
        name="every",
        spellings=("every:2",),
        help="computes every second step, or as many fewer as the number says",
        policy=EveryNth,
        usual="2 or 3",
        highest=20.0,
    )


def add(patch: pytest.MonkeyPatch, watches: str) -> None:
    """Add the entry, and nothing else, to both copies of latte_core."""
    for core in CORES:
        settings = core_part(core, "settings")
        patch.setattr(settings, "CACHES", (*settings.CACHES, entry(core, watches)))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the cache as one that watches nothing."""
    add(monkeypatch, "NOTHING")


def help_of_sample(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `sample --help` prints, in one line."""
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    return " ".join(capsys.readouterr().out.split())


def widgets() -> dict[str, Any]:
    """Return the optional inputs of Latte Accelerate."""
    return PACK.NODE_CLASS_MAPPINGS["LatteAccelerate"].INPUT_TYPES()["optional"]


def missing_in(page: str, kinds: Iterable[Any]) -> list[str]:
    """Return the names of the caches without a row that shows how they are written and do."""
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [
        kind.name
        for kind in kinds
        if not any(
            row.startswith(f"| {', '.join(f'`{one}`' for one in kind.spellings)} | {kind.help} |")
            and getattr(kind, "usual", "") in row
            for row in rows
        )
    ]


@pytest.mark.usefixtures("added")
def test_it_is_read_described_and_named_among_the_others() -> None:
    assert parse_cache("every").describe() == "every, forecast 1"
    made = parse_cache("every:3")
    assert made.describe() == "every:3, forecast 1"
    assert made.make_policy(9, "ddim").every == 3  # type: ignore[union-attr]
    with pytest.raises(InvalidInputError, match=r"Write .*, none, every:2, or a file"):
        parse_cache("fora")


@pytest.mark.usefixtures("added")
def test_it_is_in_the_help_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ", every:2, or a file that `calibrate`" in help_of_sample(capsys)


@pytest.mark.usefixtures("added")
def test_the_node_offers_it_and_says_what_it_does() -> None:
    kinds = core_part(CORES[1], "settings").CACHES
    assert widgets()["policy"][0] == ["auto", *(one.name for one in kinds if one.is_offered)]
    assert widgets()["policy"][0][-1] == "every"
    node = importlib.import_module(PACK.NODE_CLASS_MAPPINGS["LatteAccelerate"].__module__)
    made = node.settings_of("balanced", "every", 3.0, "auto", "auto")
    assert made.describe() == "every:3, forecast 1"
    assert widgets()["threshold"][1]["max"] == 20.0


@pytest.mark.usefixtures("added")
def test_its_sentences_are_in_the_texts_that_are_translated() -> None:
    node = PACK.NODE_CLASS_MAPPINGS["LatteAccelerate"]
    inputs = TEXTS.definition(TEXTS.texts_of(node, "en"))["inputs"]
    sentence = "every computes every second step, or as many fewer as the number says."
    assert inputs["policy"]["tooltip"].endswith(sentence)
    assert " and every (2 or 3): higher" in inputs["threshold"]["tooltip"]


def test_one_that_measures_is_named_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(monkeypatch, "INPUT")
    tooltip = widgets()["policy"][1]["tooltip"]
    assert " and every decide at each step" in tooltip
    assert "every computes" not in tooltip
    assert " or every by the steps" in help_of_sample(capsys)


@pytest.mark.usefixtures("added")
def test_a_run_with_it_skips_steps(tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(write_tiny_latte(tmp_path), device="cpu")
    given: dict[str, Any] = {**SMALL, "num_steps": STEPS, "output": "latents"}
    (report,) = pipeline(PROMPT, **given, cache=parse_cache("every:3")).cache
    assert (report.full_steps, report.skipped_steps) == (4, 4)  # 0, 3, 6, and 7 as the last


def test_the_texts_in_chinese_name_every_cache_that_the_node_offers() -> None:
    text = (ROOT / "nodes" / "acceleration" / "accelerate.zh.md").read_text(encoding="utf-8")
    kinds = core_part("latte_core", "settings").CACHES
    assert [one.name for one in kinds if one.is_offered and one.name not in text] == []


def test_the_page_about_speed_has_a_row_for_every_cache() -> None:
    missing = missing_in(
        PAGE.read_text(encoding="utf-8"), core_part("latte_core", "settings").CACHES
    )
    assert missing == [], f"docs/speed.md has no row with name, help and numbers of {missing}"


@pytest.mark.usefixtures("added")
def test_a_page_without_it_is_noticed() -> None:
    kinds = core_part("latte_core", "settings").CACHES
    assert missing_in(PAGE.read_text(encoding="utf-8"), kinds) == ["every"]


@pytest.mark.parametrize("text", ["static:1.6", "teacache:0.15", "first-block:0.1", "pab:2/3/6"])
def test_what_help_shows_is_what_a_cache_is_called_in_a_recipe(text: str) -> None:
    assert text in core_part("latte_core", "help").examples()
    assert parse_cache(text).describe().partition(",")[0] == text


@pytest.mark.parametrize("core", CORES)
def test_every_spelling_in_help_is_read_as_the_cache_it_belongs_to(core: str) -> None:
    settings = core_part(core, "settings")
    read = {
        spelling: settings.parse_cache(spelling).policy
        for kind in settings.CACHES
        for spelling in kind.spellings
    }
    expected = {spelling: kind.name for kind in settings.CACHES for spelling in kind.spellings}
    assert read == expected
