"""The pack in a running ComfyUI: listed nodes, caching of unchanged parts, cancel, memory."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "latte_core" / "assets" / "starter"
RUNS = 40  # in which memory is watched
MOST_KB_A_RUN = 1024  # the host keeps something of every run, too
RECORDED = json.loads((ROOT / "tests" / "data" / "nodes.json").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        not comfy_server.checkouts(), reason="no ComfyUI: set COMFYUI_PATH and COMFYUI_PYTHON"
    ),
    pytest.mark.skipif(not STARTER.is_dir(), reason="latte_core/assets/starter is not there"),
]

SHORT: dict[str, Any] = {
    "1": {
        "class_type": "LatteModelLoader",
        "inputs": {"model_name": "starter", "weight_dtype": "default"},
    },
    "2": {
        "class_type": "LatteTextEncoderLoader",
        "inputs": {"encoder_name": "starter", "device": "default"},
    },
    "3": {"class_type": "LatteVAELoader", "inputs": {"vae_name": "starter", "kind": "auto"}},
    "4": {
        "class_type": "LatteTextEncode",
        "inputs": {
            "clip": ["2", 0],
            "prompt": "a blue square moving up",
            "negative_prompt": "",
            "clean_caption": True,
            "mask_feature": True,
        },
    },
    "5": {"class_type": "LatteEmptyLatent", "inputs": {"width": 64, "height": 64, "frames": 4}},
    "6": {
        "class_type": "LatteSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["4", 0],
            "negative": ["4", 1],
            "latent_image": ["5", 0],
            "seed": 1,
            "steps": 2,
            "cfg": 4.0,
            "denoise": 1.0,
            "eta": 0.0,
        },
    },
    "7": {
        "class_type": "LatteVAEDecode",
        "inputs": {"samples": ["6", 0], "vae": ["3", 0], "chunk_frames": 0},
    },
    "8": {
        "class_type": "SaveImage",
        "inputs": {"images": ["7", 0], "filename_prefix": "short"},
    },
}


def changed(node: str, **inputs: Any) -> dict[str, Any]:
    """Return the short graph with other inputs of one node."""
    graph = copy.deepcopy(SHORT)
    graph[node]["inputs"].update(inputs)
    return graph


def cached_nodes(history: dict[str, Any]) -> set[str]:
    """Return the nodes that a run took from the cache."""
    messages = dict(history["status"]["messages"])
    return set(messages["execution_cached"]["nodes"])


def pictures(server: comfy_server.ComfyServer, history: dict[str, Any]) -> list[bytes]:
    """Return the files a run wrote."""
    images = history["outputs"]["8"]["images"]
    return [(server.base / "output" / image["filename"]).read_bytes() for image in images]


def test_every_node_is_listed_as_recorded(comfy: comfy_server.ComfyServer) -> None:
    listed = comfy.get("/object_info")
    for node_id, recorded in RECORDED.items():
        found = listed[node_id]
        assert found["display_name"] == recorded["display_name"]
        assert found["output"] == recorded["outputs"]
        for group, names in found["input_order"].items():
            assert names == [
                item["name"] for item in recorded["inputs"] if item["group"] == group
            ], node_id


def test_the_log_has_one_line_of_ours_and_no_failed_import(
    comfy: comfy_server.ComfyServer,
) -> None:
    text = comfy.log.read_text(encoding="utf-8", errors="replace")
    assert "latte-video" not in "".join(line for line in text.splitlines() if "FAILED" in line)
    assert text.count("recognise Latte files") == 1


def test_only_what_changed_runs_again(comfy: comfy_server.ComfyServer) -> None:
    comfy.run(changed("6", seed=77))
    edited = comfy.run(changed("4", prompt="a red circle moving left"))
    assert cached_nodes(edited) >= {"1", "2", "3", "5"}
    assert not cached_nodes(edited) & {"4", "6", "7", "8"}
    reseeded = comfy.run(changed("6", seed=78))
    assert cached_nodes(reseeded) >= {"1", "2", "3", "5"}
    assert not cached_nodes(reseeded) & {"6", "7", "8"}
    chunked = changed("7", chunk_frames=2)
    chunked["6"]["inputs"]["seed"] = 78
    assert cached_nodes(comfy.run(chunked)) >= {"1", "2", "3", "4", "5", "6"}


def test_cancel_stops_at_once_and_the_next_run_is_as_a_fresh_one(
    comfy: comfy_server.ComfyServer,
) -> None:
    fresh = pictures(comfy, comfy.run(changed("6", seed=5)))
    long = changed("6", seed=6, steps=1000)
    number = comfy.post("/prompt", {"prompt": long})["prompt_id"]
    time.sleep(3)
    asked = time.monotonic()
    comfy.post("/interrupt", {})
    while number not in (history := comfy.get(f"/history/{number}")):
        assert time.monotonic() - asked < 30, "still running"
        time.sleep(0.1)
    kinds = [kind for kind, _ in history[number]["status"]["messages"]]
    assert "execution_interrupted" in kinds
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    again = comfy.run(changed("6", seed=5))
    assert pictures(comfy, again) == fresh


def test_an_error_is_shown_as_its_sentence(comfy: comfy_server.ComfyServer) -> None:
    wrong = changed("6", latent_image=["9", 0])
    wrong["9"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 72, "height": 64, "batch_size": 2},
    }
    with pytest.raises(AssertionError, match="nearest sizes are 64 and 80"):
        comfy.run(wrong)


def test_memory_does_not_grow_from_run_to_run(comfy: comfy_server.ComfyServer) -> None:
    def resident() -> int:
        status = Path(f"/proc/{comfy.process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1])

    for seed in range(100, 120):  # after some runs torch and the allocator have what they want
        comfy.run(changed("6", seed=seed))
    before = resident()
    for seed in range(200, 200 + RUNS):
        comfy.run(changed("6", seed=seed))
    grown = resident() - before
    assert grown < RUNS * MOST_KB_A_RUN, f"{grown} kB in {RUNS} runs"
