"""One real ComfyUI per checkout and session, and the checks that run inside its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).parent / "inside"
STARTER = ROOT / "latte_core" / "assets" / "starter"
CHECKOUTS = comfy_server.checkouts()
SCRIPT_SECONDS = 900

# Without ComfyUI the whole folder is one skipped test that says so.
collect_ignore_glob = [] if CHECKOUTS else ["test_[!c]*.py"]


@dataclass
class Inside:
    """Runs the checks of tests/comfyui/inside with one checkout, all at once, when first asked."""

    checkout: Path
    base: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: str = ""

    def result(self, check: str) -> dict[str, Any]:
        """Return what a check found: `ok` and `value`."""
        if not self.log:
            self.run()
        if check not in self.results:
            pytest.fail(f"{check} did not run:\n{self.log}")
        return self.results[check]

    def run(self) -> None:
        """Run the script and collect its lines of results."""
        command = [comfy_server.interpreter(self.checkout), str(INSIDE / "run_all.py"), str(ROOT)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, str(self.base / "comfy"), str(STARTER)],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        found = [json.loads(line.removeprefix("RESULT ")) for line in lines]
        self.results = {item["name"]: item for item in found}
        self.log = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session", params=CHECKOUTS, ids=lambda path: path.name)
def comfy_checkout(request: pytest.FixtureRequest) -> Path:
    """A ComfyUI checkout."""
    return request.param


@pytest.fixture(scope="session")
def inside(comfy_checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """Checks that run in this ComfyUI's interpreter."""
    return Inside(comfy_checkout, tmp_path_factory.mktemp("inside"))


@pytest.fixture(scope="session")
def comfy(
    comfy_checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[comfy_server.ComfyServer]:
    """A running ComfyUI with this pack in it."""
    running = comfy_server.start(comfy_checkout, tmp_path_factory.mktemp("server") / "base")
    yield running
    running.stop()
