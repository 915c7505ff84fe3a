"""Settings by name in a .json or .yaml file, and the line on which each of them stands."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .errors import InvalidInputError, MissingDependencyError
from .text_files import read_text

MOST_BYTES = 2**20
MOST_VALUES = 100_000  # of a YAML file whose anchors were written out
MAX_DEPTH = 100
STR_TAG = "tag:yaml.org,2002:str"
# YAML 1.1 makes a day of 2024-05-01, 90 of 1:30 and 8 of 010. No setting is meant so: they are
# texts, which a setting that wants a number refuses.
MISREAD = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
TIME_TAG = "tag:yaml.org,2002:timestamp"
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What a file of settings says.

    Args:
        name: of the file.
        values: by key.
        lines: of each key, from 1; "lora.rank" for a key inside another.
    """

    name: str
    values: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict[str, int])

    def place(self, key: str | None) -> str:
        """Return where a key stands, for a message."""
        line = self.lines.get(key or "", self.lines.get((key or "").partition(".")[0]))
        return self.name if line is None else f"{self.name}, line {line}"


def read_table(path: Path, *, most: int = MOST_BYTES) -> Table:
    """Read a table of settings; a file that ends in .json is JSON, every other YAML.

    Raises:
        InvalidInputError: naming the file and, where there is one, the line that is wrong.
        MissingDependencyError: for YAML without PyYAML.
    """
    text = read_text(path, most=most)
    is_json = path.suffix.lower() == ".json"
    try:
        values, lines = _from_json(path.name, text) if is_json else _from_yaml(path.name, text)
    except RecursionError as error:
        raise _too_deep(path.name) from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise InvalidInputError(
            f"{path.name} holds {found}, but it must hold settings by name, such as "
            + ('{"seed": 1}.' if is_json else "seed: 1.")
        )
    return Table(name=path.name, values=cast("dict[str, Any]", values), lines=lines)


def _too_deep(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} holds values inside values more than {MAX_DEPTH} deep. Settings are flat; it is "
        "another file, or damaged."
    )


def _twice(name: str, key: str, lines: Sequence[int]) -> InvalidInputError:
    where = " and ".join(str(line) for line in lines)
    return InvalidInputError(f"{name} says {key} twice, on lines {where}. Keep one of them.")


def _from_json(name: str, text: str) -> tuple[object, dict[str, int]]:
    def lines_of(key: str) -> list[int]:
        found = re.finditer(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)
        return [text.count("\n", 0, one.start()) + 1 for one in found]

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            key = next(key for key in keys if keys.count(key) > 1)
            raise _twice(name, key, lines_of(key))
        return made

    try:
        values: object = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{name} is not JSON: line {error.lineno}: {error.msg}.") from error
    except InvalidInputError:
        raise
    except ValueError as error:
        raise InvalidInputError(f"{name} is not JSON: {error}.") from error
    return values, {key: found[0] for key in _keys(values) if (found := lines_of(_last(key)))}


def _keys(values: object) -> Iterator[str]:
    """Yield the keys of a table and of the tables in it."""
    if isinstance(values, dict):
        for key, value in cast("dict[str, object]", values).items():
            yield key
            if isinstance(value, dict):
                yield from (f"{key}.{inner}" for inner in cast("dict[str, object]", value))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _from_yaml(name: str, text: str) -> tuple[object, dict[str, int]]:
    try:
        yaml: Any = importlib.import_module("yaml")  # comes with transformers, and with ComfyUI
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is YAML, which needs the package PyYAML. Run: pip install pyyaml, or write "
            "the settings as JSON."
        ) from error
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        lines = {} if root is None else _check_nodes(name, root)
        return None if root is None else loader.construct_document(root), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = "" if mark is None else f" line {mark.line + 1}:"
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise InvalidInputError(f"{name} is not YAML:{where} {what}.") from error
    except InvalidInputError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInputError(f"{name} holds a value that cannot be read: {error}.") from error


def _check_nodes(name: str, root: Any) -> dict[str, int]:
    """Make texts of what is misread, and return the lines of keys; see `MISREAD`.

    Raises:
        InvalidInputError: for a key that is there twice, and for values without end.
    """
    lines: dict[str, int] = {}
    waiting: list[tuple[Any, str, int]] = [(root, "", 0)]
    count = 0
    while waiting:
        node, outer, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MOST_VALUES:  # also a value that holds itself
            raise _too_deep(name)
        if isinstance(node.value, str):
            is_number = node.tag in NUMBER_TAGS and MISREAD.fullmatch(node.value)
            node.tag = STR_TAG if node.tag == TIME_TAG or is_number else node.tag
            continue
        held: list[Any] = node.value
        pairs: list[tuple[Any, Any]] = [one for one in held if isinstance(one, tuple)]
        waiting += [(one, outer, depth + 1) for one in held if not isinstance(one, tuple)]
        seen: dict[str, int] = {}
        for key, value in pairs:
            text, line = str(key.value), key.start_mark.line + 1
            if isinstance(key.value, str) and text != "<<":
                key.tag = STR_TAG
                if text in seen:
                    raise _twice(name, text, (seen[text], line))
                seen[text] = line
            if depth <= 1:
                lines.setdefault(f"{outer}.{text}" if outer else text, line)
            waiting.append((value, text if depth == 0 else outer, depth + 1))
    return lines
