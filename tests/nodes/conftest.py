"""A class starter for every test of the nodes, as large as its names."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from latte_test_support.pack import load_pack

from latte_core.training.drawing import COLORS, SHAPES

CLASS_NAMES = [f"{color} {shape}" for color in COLORS for shape in SHAPES]


@pytest.fixture(autouse=True)
def class_starter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a folder with the class starter's names in its place; what is listed depends on it."""
    folder = tmp_path / "class_starter"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES), encoding="utf-8")
    paths = importlib.import_module(f"{load_pack().__name__}.nodes.host.paths")
    monkeypatch.setattr(paths, "CLASS_STARTER_FOLDER", folder)
    return folder
