"""What the project's Python files import and assign, read with `ast` and without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK_FOLDERS = ("latte_core", "nodes")
SKIPPED = {".git", ".venv", "__pycache__", "node_modules"}
MUTABLE_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = {
    "list",
    "dict",
    "set",
    "bytearray",
    "defaultdict",
    "OrderedDict",
    "Counter",
    "deque",
}
MUTATORS = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove",
            "discard", "clear", "sort", "reverse", "appendleft"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the file it stands in, its line, and the dotted name from the root.

    A name that was imported relatively starts with `latte_core` or `nodes`. `names` are those that
    a `from` import takes out of that module.
    """

    file: str
    line: int
    name: str
    is_relative: bool
    at_import: bool
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def python_files(*folders: str, root: Path = ROOT) -> list[Path]:
    """Return the Python files of the project, or of some of its folders."""
    places = [root / folder for folder in folders] or [root]
    found = (path for place in places for path in place.rglob("*.py"))
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(root).parts))


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports_of(path: Path, root: Path = ROOT, *, with_types: bool = False) -> tuple[Import, ...]:
    """Return every import of a file; those under `if TYPE_CHECKING` if they are asked for."""
    where = path.relative_to(root)
    found: list[Import] = []
    for node, at_import in _walk(parse(path), True, with_types):
        if isinstance(node, ast.Import):
            found += [
                Import(where.as_posix(), node.lineno, alias.name, False, at_import)
                for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            is_relative, names = node.level > 0, tuple(alias.name for alias in node.names)
            found += [
                Import(where.as_posix(), node.lineno, module, is_relative, at_import, taken)
                for module, taken in _targets(node, where, names)
            ]
    return tuple(found)


def _walk(tree: ast.AST, at_import: bool, with_types: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if is_for_types and not with_types:
            continue
        is_body = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        runs = at_import and not is_body and not is_for_types
        yield child, runs
        yield from _walk(child, runs, with_types)


def _targets(
    node: ast.ImportFrom, where: Path, names: tuple[str, ...]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return dotted modules of a `from` import, relative ones resolved, and what each gives."""
    if node.level == 0:
        return [(node.module or "", names)]
    package = where.parent.parts
    base = list(package[: len(package) - node.level + 1])
    if node.module:
        return [(".".join([*base, node.module]), names)]
    return [(".".join([*base, name]), ()) for name in names]


def mutable_names(tree: ast.Module) -> dict[str, int]:
    """Return the module's names that hold a list, dict or set, with their lines."""
    found: dict[str, int] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = getattr(node, "value", None)
        if targets and _is_mutable(value):
            found.update({t.id: node.lineno for t in targets if isinstance(t, ast.Name)})
    return found


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE_CALLS
    return isinstance(value, MUTABLE_LITERALS)


def changed_names(tree: ast.Module) -> dict[str, int]:
    """Return every plain name that some line changes in place, with that line."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        for name in _changed_by(node):
            found.setdefault(name, getattr(node, "lineno", 0))
    return found


def _changed_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Global):
        return node.names
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        is_change = node.func.attr in MUTATORS and isinstance(owner, ast.Name)
        return [owner.id] if is_change else []
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    return [
        target.value.id
        for target in targets
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
    ]
