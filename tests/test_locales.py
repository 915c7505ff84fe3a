"""Every node is explained: tooltips, two languages, and a help page in each."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from latte_test_support.locales import english, shape_of
from latte_test_support.pack import ROOT, load_pack

LANGUAGES = ["en", "zh"]
HEADINGS = {
    "en": ["## Inputs", "## Outputs", "## Example"],
    "zh": ["## \u8f93\u5165", "## \u8f93\u51fa", "## \u793a\u4f8b"],
}
HAN = re.compile("[\u4e00-\u9fff]")
PACK = load_pack()
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS


def definitions(language: str) -> dict[str, Any]:
    """Read the node texts of a language."""
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


def page(node_id: str, language: str) -> str:
    """Read the help page of a node."""
    path = ROOT / "web" / "docs" / node_id / f"{language}.md"
    return path.read_text(encoding="utf-8")


def texts_of(value: Any) -> list[str]:
    """Return every text in a tree."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_of(inner)]
    return [value]


def test_english_texts_are_those_of_the_nodes() -> None:
    message = "run python tests/support/locales.py, then bring the other languages up to date"
    assert definitions("en") == english(PACK), message


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_every_node_is_translated(language: str) -> None:
    assert shape_of(definitions(language)) == shape_of(english(PACK))
    assert all(text.strip() for text in texts_of(definitions(language)))


def test_chinese_texts_are_chinese() -> None:
    nodes = definitions("zh").values()
    sentences = [text for node in nodes for text in texts_of(node) if len(text) > 8]
    assert [text for text in sentences if not HAN.search(text)] == []


@pytest.mark.parametrize("node_id", NODES)
def test_every_node_says_what_it_does(node_id: str) -> None:
    node = NODES[node_id]
    assert node.DESCRIPTION and node.SEARCH_ALIASES
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node_id in PACK.NODE_DISPLAY_NAME_MAPPINGS


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODES)
def test_help_page_names_every_input_and_output(node_id: str, language: str) -> None:
    text = page(node_id, language)
    definition = definitions("en")[node_id]
    outputs = [output["name"] for output in definition["outputs"].values()]
    for name in [*definition["inputs"], *outputs]:
        assert f"| `{name}`" in text
    assert [line for line in HEADINGS[language] if line not in text.splitlines()] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODES)
def test_help_page_and_widget_tooltips_say_the_same(node_id: str, language: str) -> None:
    text, definition = page(node_id, language), definitions(language)[node_id]
    entries = [*definition["inputs"].values(), *definition["outputs"].values()]
    assert [one["tooltip"] for one in entries if one["tooltip"] not in text] == []
    assert definition["description"] in text


def test_no_help_page_outlives_its_node() -> None:
    assert {path.name for path in (ROOT / "web" / "docs").iterdir()} == set(NODES)
