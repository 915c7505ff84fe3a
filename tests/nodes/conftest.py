"""A class starter for every test of the nodes; a ComfyUI and data for those of training."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from latte_test_support.comfy.stand_in import StandIn
from latte_test_support.pack import load_pack
from latte_test_support.training_nodes import PATIENCE

from latte_core.cli.main import main as command_line
from latte_core.data.prepare import PrepareSettings, prepare_set
from latte_core.starter.drawing import COLORS, SHAPES

CLASS_NAMES = [f"{color} {shape}" for color in COLORS for shape in SHAPES]


@pytest.fixture(autouse=True)
def class_starter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a folder with the class starter's names in its place; what is listed depends on it."""
    folder = tmp_path / "class_starter"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES), encoding="utf-8")
    paths = importlib.import_module(f"{load_pack().__name__}.nodes.host.base.paths")
    monkeypatch.setattr(paths, "CLASS_STARTER_FOLDER", folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips that were drawn, as videos and as a prepared set."""
    folder = tmp_path_factory.mktemp("data")
    arguments = ["draw-clips", str(folder / "videos"), "--num", "4", "--format", "mp4"]
    assert command_line(arguments) == 0
    prepare_set(folder / "videos", folder / "prepared", "starter", PrepareSettings(), device="cpu")
    return folder


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A ComfyUI with empty folders; what it trains at the end of the test is ended."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in = StandIn(tmp_path / "comfy")
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    before = set(threading.enumerate())
    yield stand_in
    for thread in set(threading.enumerate()) - before:
        if hasattr(thread, "end_input"):
            thread.process.kill()  # type: ignore[attr-defined]
            thread.join(PATIENCE)


@pytest.fixture
def trained(host: StandIn, data: Path) -> StandIn:
    """A ComfyUI whose input folder holds the clips and the set."""
    shutil.copytree(data, host.folder("input"), dirs_exist_ok=True)
    return host
