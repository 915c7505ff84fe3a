"""Cases of kernels, measured in a process of their own: in Triton's interpreter, and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="module", params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> str:
    """Where kernels run: on the CPU that is the interpreter."""
    if request.param != "cpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return request.param


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, device: str) -> dict[str, Any]:
    """What the cases of the test file's SCRIPT measured in their own process."""
    more = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    made = subprocess.run(
        [sys.executable, str(request.module.SCRIPT), device],
        env={**os.environ, **more, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)
