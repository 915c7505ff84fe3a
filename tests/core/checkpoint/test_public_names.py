"""The public names of the package of weights, whose parts are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from latte_core import checkpoint

ROOT = Path(checkpoint.__file__).parents[2]


@pytest.mark.parametrize("name", checkpoint.__all__)
def test_every_public_name_is_found_and_listed(name: str) -> None:
    assert getattr(checkpoint, name).__name__ == name
    assert name in dir(checkpoint)


def test_reading_a_file_imports_no_model() -> None:
    code = (
        "import sys, latte_core.checkpoint.reading.reader\n"
        "print([name for name in sys.modules if name.startswith('latte_core.model')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
