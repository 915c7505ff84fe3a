"""What has to hold inside ComfyUI's own process, one test for each `check_` function in inside/."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server

HERE = Path(__file__).parent
STARTER = HERE.parents[1] / "latte_core" / "assets" / "starter"
SCRIPTS = (
    *("native", "sampling", "stock_nodes", "registration", "border"),
    "compiled",
    "precision",
    *(
        "class_native",
        "class_sampling",
        "class_border",
        "lora",
        "lora_hosts",
        "launches",
        "acceleration",
        "calibration",
    ),
    *("guidance", "accelerators", "shipped", "text_memory", "small_memory", "decoding"),
)

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        not comfy_server.checkouts(), reason="no ComfyUI: set COMFYUI_PATH and COMFYUI_PYTHON"
    ),
    pytest.mark.skipif(not STARTER.is_dir(), reason="latte_core/assets/starter is not there"),
]


def checks_of(script: str) -> list[str]:
    """Return the names of a script's checks without importing it."""
    tree = ast.parse((HERE / "inside" / f"{script}.py").read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("check_")]


CHECKS = [check for script in SCRIPTS for check in checks_of(script)]


@pytest.mark.parametrize("check", CHECKS, ids=[name.removeprefix("check_") for name in CHECKS])
def test_inside_comfyui(inside: Any, check: str) -> None:
    result = inside.result(check)
    assert result["ok"], result["value"]
    if str(result["value"]).startswith("skipped"):
        pytest.skip(result["value"])


def test_no_two_checks_have_the_same_name() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
