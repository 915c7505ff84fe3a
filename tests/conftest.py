"""Make `latte_core` and the helpers in tests/support importable by file location.

The repository root is never put on sys.path: its `nodes` package would shadow ComfyUI's nodes.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def register_package(name: str, folder: Path) -> None:
    """Import the package in `folder` under `name`, once."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


register_package("latte_core", ROOT / "latte_core")
register_package("latte_test_support", ROOT / "tests" / "support")
register_package("latte_fake_cuda", ROOT / "tests" / "fake_cuda" / "tool")
