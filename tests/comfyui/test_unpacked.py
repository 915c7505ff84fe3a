"""The archive that people install, unpacked under an odd name, runs the first example."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from latte_test_support.comfy import server as comfy_server
from latte_test_support.workflows import api_format

from latte_core.video.reader import read_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "example_workflows" / "text_to_video.json"

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not comfy_server.checkouts(), reason=comfy_server.NONE_FOUND),
    pytest.mark.skipif(
        shutil.which("git") is None or not (ROOT / ".git").exists(),
        reason="not a git checkout: nothing says which files are shipped",
    ),
]


def test_first_example_runs_from_a_folder_with_a_space_and_a_dot(
    comfy_checkout: Path, tmp_path: Path
) -> None:
    server = comfy_server.start(comfy_checkout, tmp_path / "base", unpacked_as="my latte v1.0")
    try:
        workflow = json.loads(EXAMPLE.read_text(encoding="utf-8"))
        history = server.run(api_format.to_api(workflow, server.get("/object_info")))
        assert history["status"]["status_str"] == "success"
        (path,) = (server.base / "output").rglob("*.mp4")
        assert read_video(path).frames.shape == (16, 256, 256, 3)
        assert not (server.base / "custom_nodes" / "my latte v1.0" / "tests").exists()
    finally:
        server.stop()
