"""Load the whole pack as ComfyUI does: by file, under a name that is not a Python identifier."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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
