"""The core that is measured: that of this repository, wherever a script is called from."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def import_core(name: str) -> Any:
    """Import a module of latte_core by file location; the repository root stays off sys.path."""
    if "latte_core" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "latte_core",
            ROOT / "latte_core" / "__init__.py",
            submodule_search_locations=[str(ROOT / "latte_core")],
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["latte_core"] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"latte_core.{name}")
