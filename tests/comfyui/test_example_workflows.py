"""Every example workflow that needs no download runs in the real ComfyUI and ends in a video."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server
from latte_test_support.workflows import api_format, training_example
from PIL import Image

from latte_core.cli.main import main as command_line
from latte_core.video.reader import read_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "example_workflows"
STARTER = ROOT / "latte_core" / "assets" / "starter"
RECORDED = json.loads((ROOT / "tests" / "data" / "example_nodes.json").read_text(encoding="utf-8"))
CHECKOUTS = comfy_server.checkouts()
# file name -> (width and height of its video, beginning of the file it writes)
RUNNABLE = {
    "text_to_video": (256, "video/Latte"),
    "text_to_video_accelerated": (256, "video/Latte_accelerated"),
    "text_to_video_stock_nodes": (64, "video/Latte_stock"),
    "text_to_video_upscale_combine": (256, "Latte_x4"),
    "class_conditional": (256, "video/Latte_class"),
    "unconditional": (256, "video/Latte_unconditional"),
    "variant_comparison": (256, "video/Latte_variant_1"),
}

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not CHECKOUTS, reason=comfy_server.NONE_FOUND),
    pytest.mark.skipif(not STARTER.is_dir(), reason="latte_core/assets/starter is not there"),
]


def load(name: str) -> dict[str, Any]:
    """Return an example workflow."""
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(comfy: comfy_server.ComfyServer) -> dict[str, Any]:
    """What the running ComfyUI says about its nodes."""
    return comfy.get("/object_info")


def written_file(
    comfy: comfy_server.ComfyServer, history: dict[str, Any], suffix: str = ".mp4"
) -> Path:
    """Return the one video or picture that a run reports."""
    files = [
        entry
        for output in history["outputs"].values()
        for entries in output.values()
        for entry in entries
        if isinstance(entry, dict) and str(entry.get("filename", "")).endswith(suffix)
    ]
    assert len(files) == 1, history["outputs"]
    return comfy.base / "output" / files[0]["subfolder"] / files[0]["filename"]


@pytest.mark.parametrize("name", RUNNABLE)
def test_example_ends_in_a_video_of_the_right_size_count_and_rate(
    name: str,
    comfy_checkout: Path,
    comfy: comfy_server.ComfyServer,
    object_info: dict[str, Any],
) -> None:
    if "combine" in name and not comfy_server.has_vhs(comfy_checkout):
        pytest.skip(f"{comfy_checkout.name} has no VideoHelperSuite")
    size, prefix = RUNNABLE[name]
    card = json.loads((STARTER / "card.json").read_text(encoding="utf-8"))

    path = written_file(comfy, comfy.run(api_format.to_api(load(name), object_info)))

    video = read_video(path)
    assert video.frames.shape == (card["num_frames"], size, size, 3)
    assert video.fps == card["fps"]
    assert path.relative_to(comfy.base / "output").as_posix().startswith(prefix)


def test_text_to_image_ends_in_one_picture(
    comfy: comfy_server.ComfyServer, object_info: dict[str, Any]
) -> None:
    history = comfy.run(api_format.to_api(load("text_to_image"), object_info))
    with Image.open(written_file(comfy, history, ".png")) as picture:
        assert picture.size == (256, 256)
        assert len(picture.convert("RGB").resize((32, 32)).getcolors() or []) > 1


def test_class_example_runs_with_our_ddpm(
    comfy: comfy_server.ComfyServer, object_info: dict[str, Any]
) -> None:
    prompt = api_format.to_api(load("class_conditional"), object_info)
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "LatteSampler")
    sampler["inputs"].update(method="ddpm", step_string="25")
    video = read_video(written_file(comfy, comfy.run(prompt)))
    assert video.frames.shape == (16, 256, 256, 3)


def with_groups(workflow: dict[str, Any], *wanted: str) -> dict[str, Any]:
    """Return a workflow in which the groups whose titles begin so are active, the others muted."""
    for group in workflow["groups"]:
        left, top, width, height = group["bounding"]
        mode = 0 if group["title"].startswith(wanted) else api_format.MUTED
        for node in workflow["nodes"]:
            if 0 <= node["pos"][0] - left < width and 0 <= node["pos"][1] - top < height:
                node["mode"] = mode
    return workflow


def test_training_example_ends_in_a_lora_that_its_last_group_uses(
    comfy: comfy_server.ComfyServer, object_info: dict[str, Any]
) -> None:
    clips = comfy.base / "input" / training_example.DATA
    if not clips.is_dir():
        command_line(["draw-clips", str(clips), "--num", "4"])
    prompt = api_format.to_api(load("train_motion_lora"), object_info)
    (train,) = (node for node in prompt.values() if node["class_type"] == "LatteTrain")
    train["inputs"].update(steps=4, sample_every=2)

    history = comfy.run(prompt)

    (status,) = (one for one in history["outputs"].values() if "images" in one)
    assert "is finished: 4 of 4 updates" in status["text"][0]
    sizes = []
    for entry in status["images"]:
        with Image.open(comfy.base / "temp" / entry["subfolder"] / entry["filename"]) as picture:
            sizes.append(picture.size)
    assert sizes[0] == (960, 480) and len(sizes) == 2
    prompt = api_format.to_api(with_groups(load("train_motion_lora"), "4."), object_info)
    path = written_file(comfy, comfy.run(prompt))
    assert read_video(path).frames.shape == (16, 256, 256, 3)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.json")))
def test_example_uses_only_nodes_that_the_running_comfyui_has(
    name: str, object_info: dict[str, Any]
) -> None:
    used = {node["type"] for node in load(name)["nodes"]} - {"MarkdownNote"}
    if "VHS_VideoCombine" not in object_info:
        used.discard("VHS_VideoCombine")
    assert used <= object_info.keys()


@pytest.mark.parametrize("node", RECORDED)
def test_recorded_signature_is_where_the_running_one_begins(
    node: str, object_info: dict[str, Any]
) -> None:
    if node not in object_info and node.startswith("VHS_"):
        pytest.skip("VideoHelperSuite is not installed")
    running = api_format.signature_of(object_info[node])
    recorded = RECORDED[node]
    assert running["inputs"] == recorded["inputs"]
    assert running["widgets"][: len(recorded["widgets"])] == recorded["widgets"]
    assert running["outputs"][: len(recorded["outputs"])] == recorded["outputs"]


def test_examples_are_offered_as_templates(comfy: comfy_server.ComfyServer) -> None:
    offered = comfy.get("/workflow_templates")["latte-video"]
    assert set(offered) == {path.stem for path in EXAMPLES.glob("*.json")}


@pytest.mark.parametrize("picture", sorted(path.name for path in EXAMPLES.glob("*.jpg")))
def test_picture_is_served_where_the_template_browser_looks(
    picture: str, comfy: comfy_server.ComfyServer
) -> None:
    address = f"{comfy.url}/api/workflow_templates/latte-video/{picture}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.read() == (EXAMPLES / picture).read_bytes()
