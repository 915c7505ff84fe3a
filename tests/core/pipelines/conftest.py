"""A tiny random Latte in a folder, and the pipeline opened from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from latte_test_support.tiny.pipeline import write_tiny_latte

from latte_core.pipelines.text.pipeline import Pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_latte(tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu")
