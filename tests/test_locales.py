"""Every node is explained: tooltips, two languages, and a help page in each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from latte_test_support.pack import ROOT, copy_pack, load_pack, load_script

LANGUAGES = ["en", "zh"]
HAN = re.compile("[\u4e00-\u9fff]")
NODES: dict[str, Any] = load_pack().NODE_CLASS_MAPPINGS
TEXTS = load_script("node_texts")
CHINESE = "nodes/acceleration/compile.zh.md"


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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModuleType]:
    """A copy of the pack whose files may be changed, imported."""
    folder = copy_pack(tmp_path_factory.mktemp("pack"))
    return folder, load_pack("latte_pack_with_other_texts", folder)


@pytest.fixture
def change(copy: tuple[Path, ModuleType]) -> Iterator[Callable[[str, str, str], list[str]]]:
    """Return a function that replaces a text in a file of the copy and says what that leaves."""
    folder, pack = copy
    TEXTS.write(folder, pack.NODE_CLASS_MAPPINGS)
    for name in ("README.md", "README.zh.md"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    kept: dict[Path, bytes] = {}

    def replace(name: str, old: str, new: str) -> list[str]:
        path = folder / name
        kept[path] = path.read_bytes()
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")
        return TEXTS.faults(folder, pack.NODE_CLASS_MAPPINGS)

    yield replace
    for path, content in kept.items():
        path.write_bytes(content)


def test_every_node_is_explained_in_every_language() -> None:
    faults = TEXTS.faults(ROOT, NODES)
    assert not faults, "\n" + "\n".join(faults)


def test_chinese_texts_are_chinese() -> None:
    nodes = definitions("zh").values()
    sentences = [text for node in nodes for text in texts_of(node) if len(text) > 8]
    assert [text for text in sentences if not HAN.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", NODES)
def test_help_page_and_tooltips_say_the_same_of_every_input_and_output(
    node_id: str, language: str
) -> None:
    text, definition = page(node_id, language), definitions(language)[node_id]
    tables = text.partition(f"## {TEXTS.LANGUAGES[language].inputs}\n")[2]
    rows = [line for line in tables.splitlines() if line.startswith("| `")]
    names = [*definition["inputs"], *NODES[node_id].RETURN_NAMES]
    entries = [*definition["inputs"].values(), *definition["outputs"].values()]
    for row, name, entry in zip(rows, names, entries, strict=True):
        assert row.startswith(f"| `{name}`") and row.endswith(f"| {entry['tooltip']} |")
    assert text.startswith(definition["description"] + "\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        (CHINESE, "- `mode`", "`mode`", "LatteCompile: no Chinese tooltip for mode; write it in"),
        (CHINESE, "# Latte", "Latte", "LatteCompile: no Chinese name; write it in"),
        (CHINESE, "## \u793a\u4f8b", "## ", "LatteCompile: no Chinese example; write it in"),
        (CHINESE, "- `mode`", "- `modes`", f"{CHINESE} explains modes, which the node does not"),
        (
            "nodes/sampling/noise.en.md",
            "## Example",
            "## Examples",
            "LatteNoise: no English example; write it in nodes/sampling/noise.en.md",
        ),
        (CHINESE, "**", "", "web/docs/LatteCompile/zh.md is not what the texts beside the nodes"),
        (
            "locales/en/nodeDefs.json",
            "Latte Compile",
            "Compile",
            "locales/en/nodeDefs.json is not what the texts beside the nodes say: run python -m",
        ),
        (
            "README.md",
            "| Latte Compile |",
            "| Compile |",
            "LatteCompile: README.md has no row for Latte Compile in its table of nodes",
        ),
        (
            "README.zh.md",
            "| Latte \u7f16\u8bd1 |",
            "| |",
            "LatteCompile: README.zh.md has no row for Latte \u7f16\u8bd1",
        ),
    ],
)
def test_what_is_missing_or_stale_is_named_with_its_file(
    change: Callable[[str, str, str], list[str]], file: str, old: str, new: str, fault: str
) -> None:
    assert [one for one in change(file, old, new) if fault in one] != []


def test_texts_and_pages_of_no_node_are_named(copy: tuple[Path, ModuleType]) -> None:
    folder, pack = copy
    TEXTS.write(folder, pack.NODE_CLASS_MAPPINGS)
    page, text = folder / "web" / "docs" / "LatteGone", folder / "nodes" / "latents" / "gone.zh.md"
    page.mkdir()
    text.touch()
    faults = TEXTS.faults(folder, pack.NODE_CLASS_MAPPINGS)
    page.rmdir()
    text.unlink()
    assert "web/docs/LatteGone belongs to no node: delete it" in faults
    assert "nodes/latents/gone.zh.md stands beside no node: rename or delete it" in faults
