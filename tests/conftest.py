"""Make `latte_core` and the helpers in tests/support importable by file location.

The repository root is never put on sys.path: its `nodes` package would shadow ComfyUI's nodes.py.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

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


if "PYTEST_XDIST_WORKER" in os.environ:  # before torch counts cores: the workers share them
    os.environ["OMP_NUM_THREADS"] = "1"

register_package("latte_core", ROOT / "latte_core")
register_package("latte_test_support", ROOT / "tests" / "support")
register_package("latte_fake_cuda", ROOT / "tests" / "fake_cuda" / "tool")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Keep what is remembered for later processes out of the user's own cache folder."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATTE_CACHE_DIR", str(folder / "shared"))
        yield folder


@pytest.fixture(autouse=True)
def own_cache(
    caches: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let no test find what another one left; the folder is not made before it is used."""
    monkeypatch.setenv("LATTE_CACHE_DIR", str(caches / f"{id(request.node):x}"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Keep the tests of a file in one process: many share what one of them made."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, begin with the files that take longest: none ends alone then."""
    if config.getoption("numprocesses", default=None) or "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
