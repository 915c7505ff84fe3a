"""Write what ComfyUI shows of each node in every language, from the texts beside the nodes.

English names, descriptions and tooltips stand in the class of a node. Beside its file, say
compile.py, lie compile.en.md with the rest of its English help page, and compile.zh.md with all of
it in Chinese. From these come locales/<language>/nodeDefs.json and web/docs/<node>/<language>.md.

Run it from the folder of the pack after a text has changed: python -m docs.node_texts
It ends with a list of what is missing; a node is left out of a language that lacks texts for it.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m docs.node_texts"
ITEM = re.compile("- `(?P<key>\\w+)` ?(?P<name>.*?)(?:: |\uff1a)(?P<tooltip>.+)")
TITLE = re.compile(r"# (?P<name>.+)\n\n(?P<description>.+)\n*")
SECTION = re.compile(r"^## (.+)\n+", re.MULTILINE)
NAME_IN_TABLE = re.compile(r"^\| ([^|]+?) \|", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The words that every help page of a language has."""

    name: str
    readme: str
    inputs: str
    outputs: str
    example: str
    none: str
    columns: str


LANGUAGES = {
    "en": Language(
        name="English",
        readme="README.md",
        inputs="Inputs",
        outputs="Outputs",
        example="Example",
        none="None.",
        columns="| Name | Meaning |",
    ),
    "zh": Language(
        name="Chinese",
        readme="README.zh.md",
        inputs="\u8f93\u5165",
        outputs="\u8f93\u51fa",
        example="\u793a\u4f8b",
        none="\u6ca1\u6709{}\u3002",
        columns="| \u540d\u79f0 | \u8bf4\u660e |",
    ),
}


@dataclass(frozen=True, slots=True)
class Item:
    """Name and tooltip of an input or output."""

    name: str
    tooltip: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """All that is said of a node in one language; what is missing is empty."""

    display_name: str
    description: str
    inputs: dict[str, Item]
    outputs: dict[str, Item]
    more: str
    example: str


def text_file(node: Any, code: str) -> Path:
    """Return the file beside a node that holds its texts of a language."""
    return Path(inspect.getfile(node)).with_suffix(f".{code}.md")


def read(path: Path) -> str:
    """Return what a file holds, and nothing for one that is not there."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def texts_of(node: Any, code: str) -> Texts:
    """Read all texts of a node in a language, inputs and outputs in the order of its class."""
    language = LANGUAGES[code]
    opening, *rest = SECTION.split(read(text_file(node, code)))
    sections = dict(zip(rest[::2], (text.strip() for text in rest[1::2]), strict=True))
    texts = english(node, more=opening.strip(), example=sections.get(language.example, ""))
    if code == "en":
        return texts
    title = TITLE.match(opening)
    return Texts(
        display_name=title["name"] if title else "",
        description=title["description"] if title else "",
        inputs=items(sections.get(language.inputs, ""), texts.inputs),
        outputs=items(sections.get(language.outputs, ""), texts.outputs),
        more=opening[title.end() :].strip() if title else "",
        example=texts.example,
    )


def english(node: Any, more: str, example: str) -> Texts:
    """Join what a node's class says with the rest of its help page."""
    groups = node.INPUT_TYPES()
    shown = {**groups.get("required", {}), **groups.get("optional", {})}
    tooltips = chain(getattr(node, "OUTPUT_TOOLTIPS", ()), repeat(""))
    return Texts(
        display_name=node.DISPLAY_NAME,
        description=getattr(node, "DESCRIPTION", ""),
        inputs={
            name: Item(name, "".join(one.get("tooltip", "") for one in options))
            for name, (_, *options) in shown.items()
        },
        outputs={name: Item(name, next(tooltips)) for name in node.RETURN_NAMES},
        more=more,
        example=example,
    )


def items(section: str, order: Iterable[str]) -> dict[str, Item]:
    """Read lines such as "- `mode` name in this language: its tooltip"."""
    matches = (ITEM.fullmatch(line) for line in section.splitlines())
    found = {one["key"]: Item(one["name"] or one["key"], one["tooltip"]) for one in matches if one}
    return {key: found[key] for key in [*order, *found] if key in found}


def definition(texts: Texts) -> dict[str, Any]:
    """Return a node's entry in nodeDefs.json; outputs go by their number."""
    inputs = {key: asdict(item) for key, item in texts.inputs.items()}
    outputs = {str(number): asdict(item) for number, item in enumerate(texts.outputs.values())}
    return {
        "display_name": texts.display_name,
        "description": texts.description,
        "inputs": inputs,
        "outputs": outputs,
    }


def help_page(texts: Texts, language: Language) -> str:
    """Return a node's help page."""
    parts = [
        texts.description,
        texts.more,
        table(language.inputs, texts.inputs, language),
        table(language.outputs, texts.outputs, language),
        f"## {language.example}\n\n{texts.example}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def table(heading: str, entries: Mapping[str, Item], language: Language) -> str:
    """Return inputs or outputs as a table."""
    rows = [
        f"| `{key}`{'' if item.name == key else f' {item.name}'} | {item.tooltip} |"
        for key, item in entries.items()
    ]
    lines = [language.columns, "|---|---|", *rows] if rows else [language.none.format(heading)]
    return "\n".join([f"## {heading}", "", *lines])


def missing(node_id: str, node: Any, code: str) -> list[str]:
    """Name what a node lacks in a language, and in which file it is to be written."""
    texts, node_has = texts_of(node, code), texts_of(node, "en")
    beside = text_file(node, code)
    source = Path(inspect.getfile(node)) if code == "en" else beside
    pairs = [("", texts.inputs, node_has.inputs), ("output ", texts.outputs, node_has.outputs)]
    wanted = [("name", texts.display_name, source), ("description", texts.description, source)]
    for kind, said, known in pairs:
        wanted += [
            (f"tooltip for {kind}{key}", said[key].tooltip if key in said else "", source)
            for key in known
        ]
    wanted.append(("example", texts.example, beside))
    unknown = [f"{kind}{key}" for kind, said, known in pairs for key in said if key not in known]
    return [
        f"{node_id}: no {LANGUAGES[code].name} {what}; write it in {place_of(path)}"
        for what, text, path in wanted
        if not text.strip()
    ] + [
        f"{node_id}: {place_of(source)} explains {what}, which the node does not have"
        for what in unknown
    ]


def place_of(path: Path) -> str:
    """Return where in the pack a file lies: nodes/<menu>/<file>."""
    return "/".join(path.parts[-3:])


def complete(nodes: Mapping[str, Any], code: str) -> dict[str, Texts]:
    """Return the texts of the nodes that lack none in a language."""
    return {
        node_id: texts_of(node, code)
        for node_id, node in nodes.items()
        if not missing(node_id, node, code)
    }


def generated(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Return every file that is written from the texts, by its place in the pack."""
    files: dict[str, str] = {}
    for code, language in LANGUAGES.items():
        all_texts = complete(nodes, code)
        definitions = {node_id: definition(texts) for node_id, texts in all_texts.items()}
        text = json.dumps(definitions, indent=2, ensure_ascii=False)
        files[f"locales/{code}/nodeDefs.json"] = f"{text}\n"
        for node_id, texts in all_texts.items():
            files[f"web/docs/{node_id}/{code}.md"] = help_page(texts, language)
    return files


def write(root: Path, nodes: Mapping[str, Any]) -> None:
    """Write these files."""
    for place, text in generated(nodes).items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def faults(root: Path, nodes: Mapping[str, Any]) -> list[str]:
    """Name all that keeps the nodes from being explained in every language, a line for each."""
    return [*missing_texts(nodes), *stale_files(root, nodes), *missing_rows(root, nodes)]


def missing_texts(nodes: Mapping[str, Any]) -> Iterator[str]:
    """Name the texts that nobody has written."""
    for node_id, node in nodes.items():
        for code in LANGUAGES:
            yield from missing(node_id, node, code)


def stale_files(root: Path, nodes: Mapping[str, Any]) -> Iterator[str]:
    """Name the files that say something else than the texts, and those of no node."""
    for place, text in generated(nodes).items():
        if read(root / place) != text:
            yield f"{place} is not what the texts beside the nodes say: run {COMMAND}"
    for path in sorted((root / "web" / "docs").iterdir()):
        if path.name not in nodes:
            yield f"web/docs/{path.name} belongs to no node: delete it"
    known = {text_file(node, code) for node in nodes.values() for code in LANGUAGES}
    for path in sorted((root / "nodes").rglob("*.md")):
        if path not in known:
            yield f"{place_of(path)} stands beside no node: rename or delete it"


def missing_rows(root: Path, nodes: Mapping[str, Any]) -> Iterator[str]:
    """Name the nodes that the READMEs do not list in a table."""
    for code, language in LANGUAGES.items():
        cells = NAME_IN_TABLE.findall(read(root / language.readme))
        listed = {name for cell in cells for name in re.split(", |\u3001", cell)}
        for node_id, node in nodes.items():
            name = texts_of(node, code).display_name
            if name and name not in listed:
                yield f"{node_id}: {language.readme} has no row for {name} in its table of nodes"


def load_nodes() -> Mapping[str, Any]:
    """Import the pack by file, as ComfyUI does, and return its nodes."""
    spec = importlib.util.spec_from_file_location(
        "latte_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack
    spec.loader.exec_module(pack)
    return pack.NODE_CLASS_MAPPINGS


def main() -> None:
    """Write the files of this pack, and end with what is left to do."""
    nodes = load_nodes()
    write(ROOT, nodes)
    left = faults(ROOT, nodes)
    if left:
        raise SystemExit("\n".join(left))


if __name__ == "__main__":
    main()
