"""Find ComfyUI checkouts and run a real ComfyUI on the CPU, with this pack linked into it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pack import unpack_archive

ROOT = Path(__file__).resolve().parents[3]
NONE_FOUND = "no ComfyUI: set COMFYUI_PATH to checkouts and COMFYUI_PYTHON to their Python"
VHS = "ComfyUI-VideoHelperSuite"
START_SECONDS = 180
RUN_SECONDS = 300


def checkouts() -> list[Path]:
    """Return the ComfyUI checkouts to test with, oldest first; none where their Python is unknown.

    They are those in COMFYUI_PATH (several are separated as in PATH), else those in ~/comfy.
    """
    named = os.environ.get("COMFYUI_PATH")
    found = [Path(part) for part in named.split(os.pathsep)] if named else []
    if not named:
        found = [entry.parent for entry in (Path.home() / "comfy").glob("ComfyUI*/main.py")]
    return sorted((path for path in found if interpreter(path) is not None), key=version)


def interpreter(checkout: Path) -> str | None:
    """Return the Python with ComfyUI's requirements: COMFYUI_PYTHON, or the checkout's .venv."""
    own = checkout / ".venv" / "bin" / "python"
    return os.environ.get("COMFYUI_PYTHON") or (str(own) if own.exists() else None)


def version(checkout: Path) -> tuple[int, ...]:
    """Return the version of a checkout, as numbers."""
    text = (checkout / "comfyui_version.py").read_text(encoding="utf-8")
    return tuple(int(part) for part in text.split('"')[1].split("."))


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class ComfyServer:
    """A running ComfyUI: where it listens, and the folder it works in."""

    url: str
    base: Path
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, route: str) -> Any:
        """Return the JSON at a route."""
        with urllib.request.urlopen(f"{self.url}{route}", timeout=60) as answer:
            return json.load(answer)

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """Send JSON; return the answer, or raise with what the server said."""
        request = urllib.request.Request(
            f"{self.url}{route}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{route}: {error.read().decode()}") from error
        return json.loads(text) if text else None

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue a prompt, wait for its end, and return its history entry."""
        number = self.post("/prompt", {"prompt": prompt})["prompt_id"]
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            history = self.get(f"/history/{number}")
            if number in history and history[number]["status"]["completed"]:
                return history[number]
            if number in history and history[number]["status"]["status_str"] == "error":
                raise AssertionError(json.dumps(history[number]["status"], indent=1))
            time.sleep(0.5)
        raise AssertionError(f"no result after {RUN_SECONDS} s\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(timeout=30)


def prepare_base(base: Path, checkout: Path, unpacked_as: str | None) -> None:
    """Make a base folder that holds this pack, and VideoHelperSuite where the checkout has it."""
    packs = base / "custom_nodes"
    packs.mkdir(parents=True)
    if unpacked_as is None:
        (packs / "latte-video").symlink_to(ROOT, target_is_directory=True)
    else:
        unpack_archive(packs / unpacked_as)
    if has_vhs(checkout):
        shutil.copytree(
            checkout / "custom_nodes" / VHS, packs / VHS, ignore=shutil.ignore_patterns(".git")
        )


def has_vhs(checkout: Path) -> bool:
    """Whether VideoHelperSuite is installed in the checkout."""
    return (checkout / "custom_nodes" / VHS / "__init__.py").exists()


def start(checkout: Path, base: Path, *options: str, unpacked_as: str | None = None) -> ComfyServer:
    """Start ComfyUI from `checkout` on `base`, and wait until it answers.

    Args:
        checkout: a ComfyUI.
        base: an empty folder that it works in.
        options: further ones of its command line.
        unpacked_as: name of the folder that the archive is unpacked into; by default the working
            tree itself is linked.

    Raises:
        AssertionError: if it ends or does not answer; the message holds the end of its log.
    """
    prepare_base(base, checkout, unpacked_as)
    port = free_port()
    log = base / "server.log"
    python = interpreter(checkout)
    assert python is not None, f"the Python of {checkout.name} is unknown: set COMFYUI_PYTHON"
    command = [python, "main.py", "--cpu", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--disable-api-nodes", *options],
            cwd=checkout,
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    server = ComfyServer(f"http://127.0.0.1:{port}", base, process, log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.get("/system_stats")
        except OSError:
            time.sleep(0.5)
        else:
            return server
    process.kill()
    process.wait()
    raise AssertionError(f"{checkout.name} did not start\n{log.read_text()[-3000:]}")
