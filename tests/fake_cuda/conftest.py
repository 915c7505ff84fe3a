"""Tiny models in folders, for every test on the card that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from latte_test_support.tiny.classes import write_class_folder
from latte_test_support.tiny.pipeline import write_tiny_latte

from latte_core.memory import BlockStream


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-video model with all its parts."""
    return write_tiny_latte(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Class models by their variant."""
    made = tmp_path_factory.mktemp("classes")
    return {n: write_class_folder(made / str(n), variant=n) for n in (1, 2, 3, 4)}


@pytest.fixture
def tiny_tensors_are_streamed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream blocks that are too small to be worth it."""
    monkeypatch.setitem(BlockStream.__init__.__kwdefaults__, "smallest", 1)
