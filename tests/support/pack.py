"""Load the whole pack as ComfyUI does, by file; and tell which files an installation has."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "latte_pack_under_test"


def load_pack(name: str = NAME, root: Path = ROOT) -> ModuleType:
    """Import the pack in `root` once under `name`; relative imports inside it work."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is not a node pack")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def listed_nodes(root: Path = ROOT) -> list[str]:
    """Return the keys of NODE_CLASS_MAPPINGS as tools read them, without importing the nodes."""
    tree = ast.parse((root / "nodes" / "__init__.py").read_text(encoding="utf-8"))
    (mapping,) = [
        statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and ast.unparse(statement.targets[0]) == "NODE_CLASS_MAPPINGS"
    ]
    assert isinstance(mapping, ast.Dict)
    return [ast.literal_eval(key) for key in mapping.keys if key is not None]


def load_script(name: str) -> ModuleType:
    """Import a script of docs/, which is no package of the tests."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def copy_pack(target: Path) -> Path:
    """Copy what is needed to import the pack."""
    skip = shutil.ignore_patterns("__pycache__", "assets")
    for name in ("latte_core", "nodes"):
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    shutil.copy(ROOT / "__init__.py", target)
    return target


def tracked_files() -> list[str]:
    """Return the files that git tracks and that are there; skip the test where git cannot say."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to it")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


def shipped_files() -> list[Path]:
    """Return the tracked files that .comfyignore leaves in the archive."""
    ignored = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    patterns = [one.rstrip("/") for one in ignored if one and not one.startswith("#")]
    kept = [
        name
        for name in tracked_files()
        if not any(fnmatch.fnmatch(name, one) or name.startswith(f"{one}/") for one in patterns)
    ]
    return [ROOT / name for name in kept]


def unpack_archive(folder: Path) -> None:
    """Put the files of the archive into a folder, as an installation has them."""
    for path in shipped_files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
