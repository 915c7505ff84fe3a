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
from latte_test_support import comfy_server

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).parent / "inside"
STARTER = ROOT / "latte_core" / "assets" / "starter"
CHECKOUTS = comfy_server.checkouts()
SCRIPT_SECONDS = 900


@dataclass
class Inside:
    """Runs scripts of tests/comfyui/inside with one checkout, each at most once a session."""

    checkout: Path
    base: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def result(self, script: str, check: str) -> dict[str, Any]:
        """Return what a check of a script found: `ok` and `value`."""
        if script not in self.results:
            self.results[script] = self.run(script)
        if check not in self.results[script]:
            pytest.fail(f"{check} did not run:\n{self.results[script]['log']}")
        return self.results[script][check]

    def run(self, script: str) -> dict[str, Any]:
        """Run a script and collect its lines of results."""
        command = [comfy_server.interpreter(), str(INSIDE / f"{script}.py")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, str(ROOT), str(self.base / script), str(STARTER)],
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        found = [json.loads(line.removeprefix("RESULT ")) for line in lines]
        return {
            "log": done.stdout[-2000:] + done.stderr[-3000:],
            **{item["name"]: item for item in found},
        }


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
