"""Fused kernels on a card, run by Triton's interpreter on the data of its tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fake_cuda
SCRIPT = Path(__file__).resolve().parents[1] / "support" / "kernels" / "card.py"
CASES = ("text", "text, graph", "text, int8", "class")


@pytest.fixture(scope="module")
def report(text_folder: Path, class_folders: dict[int, Path]) -> dict[str, Any]:
    """What the script measured."""
    pytest.importorskip("triton")
    made = subprocess.run(
        [sys.executable, str(SCRIPT), str(text_folder), str(class_folders[1])],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.parametrize("case", CASES)
def test_kernels_make_the_latents_of_torch(report: dict[str, Any], case: str) -> None:
    found = report[case]
    assert found["distance"] < 1e-3
    expected = {"attend_across_frames", "gated_sum_norm", "modulated_norm"}
    assert expected <= set(found["kernels"])


@pytest.mark.parametrize("case", CASES)
def test_step_with_kernels_neither_copies_nor_waits(report: dict[str, Any], case: str) -> None:
    for row in report[case]["steps"]:
        assert (row["pageable_copies"], row["read_backs"]) == (0, 0), report[case]["report"]


def test_gelu_of_a_plain_layer_is_a_kernel(report: dict[str, Any]) -> None:
    assert "linear_gelu" in report["text"]["kernels"]


def test_kernels_are_timed_in_the_first_step_alone(report: dict[str, Any]) -> None:
    found = report["text, chosen"]
    assert "linear_gelu" in found["kernels"]
    waits = [row["read_backs"] for row in found["steps"]]
    assert max(waits) <= max(row["read_backs"] for row in report["text"]["steps"])
