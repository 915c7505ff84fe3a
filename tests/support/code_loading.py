"""The ways to load code that stand in a file, whatever name they are called by (R16).

Names are followed through `import`, `from`, `as`, plain assignment, `getattr` and `vars`. What is
put together while a program runs cannot be seen; such imports are reported for that reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

LOADERS = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "pandas"),
    *("marshal", "runpy", "imp", "zipimport", "pkgutil", "code", "codeop", "ctypes", "_ctypes"),
    *("cffi", "importlib.util", "importlib.machinery", "importlib.__import__"),
    *("builtins", "__builtins__", "__import__", "eval", "exec", "compile", "os.system", "os.popen"),
    *("multiprocessing.reduction", "numpy.load", "sys.modules", "sys.meta_path", "sys.path_hooks"),
    *("torch.jit", "torch.load", "torch.hub", "torch.package", "torch.export.load", "torch._C"),
    *("torch.serialization", "torch.ops.load_library", "torch.classes.load_library"),
    *("torch.utils.cpp_extension", "torch.utils.model_zoo", "torch._inductor.package"),
}  # fmt: skip
"""Dotted names that run what a file or a text says; what lies below one counts, too."""

BUILT_IN = {"__builtins__", "__import__", "compile", "eval", "exec", "getattr", "vars"}
UNSAFE_ATTRIBUTES = {"unsafe_load", "unsafe_load_all", "UnsafeLoader", "FullLoader", "load_library"}
UNSAFE_WORDS = {"allow_pickle", "trust_remote_code"}
COMPUTED = "a module whose name is computed"
NOT_CHECKED = "torch.load that may run code"
IMPORTERS = {"importlib.import_module", "importlib.reload"}


def code_loading_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every way to load code in a syntax tree."""
    names = _names_of(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for found in _told_by(node, names):
            if _is_loader(found):
                yield line, found
        if isinstance(node, ast.Call):
            if _dotted(node.func, names) in IMPORTERS and not _is_literal(node):
                yield line, COMPUTED
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if _dotted(node.func, names) == "torch.load" and words.get("weights_only") != "True":
                yield line, NOT_CHECKED
            for word in node.keywords:
                if word.arg in UNSAFE_WORDS and words[word.arg] != "False":
                    yield line, str(word.arg)
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE_ATTRIBUTES:
            yield line, node.attr


def _is_loader(name: str) -> bool:
    return any(f"{name}.".startswith(f"{known}.") for known in LOADERS)


def _is_literal(call: ast.Call) -> bool:
    """Whether an import says in place which module it means; a relative name is of the pack."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def _told_by(node: ast.AST, names: dict[str, str]) -> list[str]:
    """Return the dotted names that one node stands for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        found = _dotted(node, names)
        return [] if found is None else [found]
    if isinstance(node, ast.Constant) and node.value in ("__builtins__", "__import__"):
        return [node.value]
    return []


def _names_of(tree: ast.AST) -> dict[str, str]:
    """Return what names of a file mean that came by an import or an assignment."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            at = f"{'.' * node.level}{node.module or ''}"
            names.update({one.asname or one.name: f"{at}.{one.name}" for one in node.names})
    for node in ast.walk(tree):
        target = None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            target = node.target
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id not in names and value is not None:
            found = _dotted(value, names)
            if found is not None:
                names[target.id] = found
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """Return the full dotted name of an expression; None for what is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if node.id in BUILT_IN else None)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, names)
        return None if owner is None else f"{owner}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        owner = _dotted(node.value, names)
        is_known = owner is not None and owner.endswith(".__dict__")
        return f"{str(owner)[:-9]}.{node.slice.value}" if is_known else None
    if not isinstance(node, ast.Call):
        return None
    called = _dotted(node.func, names)
    literals = [one.value if isinstance(one, ast.Constant) else None for one in node.args]
    if called == "getattr" and len(node.args) > 1 and isinstance(literals[1], str):
        owner = _dotted(node.args[0], names)
        return None if owner is None else f"{owner}.{literals[1]}"
    if called == "vars" and node.args:
        owner = _dotted(node.args[0], names)
        return None if owner is None else f"{owner}.__dict__"
    if called in IMPORTERS and literals and isinstance(literals[0], str):
        return literals[0]
    return None
