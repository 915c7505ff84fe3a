"""Training from a real ComfyUI: other prompts run meanwhile; killing it leaves a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from latte_test_support.comfy import server as comfy_server

from latte_core.cli.main import main as command_line
from latte_core.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "latte_core" / "assets" / "starter"
PATIENCE = 300  # seconds
SECONDS_TO_END = 60  # an update of the starter, its checkpoint and its LoRA, on a busy machine
FOREVER = 1_000_000

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not comfy_server.checkouts(), reason=comfy_server.NONE_FOUND),
    pytest.mark.skipif(not STARTER.is_dir(), reason="latte_core/assets/starter is not there"),
]


def train(run: str) -> dict[str, Any]:
    """Return Latte Train on the drawn clips."""
    inputs: dict[str, Any] = {
        "data": "clips",
        "model": "starter",
        "method": "motion LoRA (temporal)",
        "run_name": run,
        "steps": FOREVER,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "rank": 2,
        "num_frames": 16,
        "interval": 1,
        "precision": "auto",
        "training_seed": 0,
        "sample_every": 0,
        "sample_prompts": "",
    }
    return {"class_type": "LatteTrain", "inputs": inputs}


def other_work() -> dict[str, Any]:
    """Return a graph that makes two frames with the class starter."""
    sample = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["2", 1],
        "latent_image": ["3", 0],
        "seed": 1,
        "steps": 2,
        "cfg": 1.0,
        "denoise": 1.0,
        "eta": 0.0,
    }
    decode = {"samples": ["4", 0], "vae": ["5", 0], "chunk_frames": 0}
    kinds: dict[str, dict[str, Any]] = {
        "LatteModelLoader": {"model_name": "class-starter", "weight_dtype": "default"},
        "LatteClassLabel": {"class_name": "red circle", "class_number": -1},
        "LatteEmptyLatent": {"width": 64, "height": 64, "frames": 2},
        "LatteSampler": sample,
        "LatteVAELoader": {"vae_name": "starter", "kind": "image"},
        "LatteVAEDecode": decode,
        "PreviewImage": {"images": ["6", 0]},
    }
    nodes = enumerate(kinds.items(), 1)
    return {str(k): {"class_type": kind, "inputs": inputs} for k, (kind, inputs) in nodes}


def status(run: Any, wait: str = "no") -> dict[str, Any]:
    """Return Latte Training Status."""
    inputs = {"run": run, "wait": wait, "seconds": PATIENCE}
    return {"class_type": "LatteTrainingStatus", "inputs": inputs}


def text_of(history: dict[str, Any], node: str) -> str:
    """Return what a node said."""
    return history["outputs"][node]["text"][0]


def wait_until(is_so: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        threading.Event().wait(0.2)


@pytest.fixture
def server(comfy_checkout: Path, tmp_path: Path) -> Any:
    """A ComfyUI of this test's own, with clips to train on."""
    base = tmp_path / "base"
    assert command_line(["draw-clips", str(base / "input" / "clips"), "--num", "4"]) == 0
    running = comfy_server.start(comfy_checkout, base)
    yield running
    if running.process.poll() is None:
        running.stop()


def test_comfyui_trains_beside_its_other_work_and_leaves_a_checkpoint_when_killed(
    server: comfy_server.ComfyServer,
) -> None:
    folder = RunFolder(server.base / "output" / "latte_training" / "caf\u00e9 run")
    started = server.run({"1": train("caf\u00e9 run"), "2": status(["1", 0])})
    assert "run is starting" in text_of(started, "2") or "preparing" in text_of(started, "2")
    assert folder.status().get("state") in (None, "preparing")
    first = server.run({"2": status("caf\u00e9 run", "for progress")})
    assert f"of {FOREVER} updates" in text_of(first, "2")

    again = server.run({"1": train("caf\u00e9 run"), "2": status(["1", 0])})

    assert f"of {FOREVER} updates" in text_of(again, "2"), "it was not started twice"
    (picture,) = again["outputs"]["2"]["images"]
    path = server.base / "temp" / picture["subfolder"] / picture["filename"]
    assert picture["type"] == "temp" and path.read_bytes().startswith(b"\x89PNG")
    made = server.run(other_work())["outputs"]["7"]["images"]
    assert len(made) == 2 and folder.status()["state"] == "running"
    before = folder.status()["step"]
    wait_until(lambda: folder.status()["step"] > before, PATIENCE, "another report")
    listed = server.get("/object_info/LatteTrain")["LatteTrain"]["input"]["required"]
    assert listed["data"][0] == ["clips"]

    server.process.kill()
    server.process.wait(timeout=30)

    wait_until(lambda: folder.status()["state"] == "stopped", SECONDS_TO_END, "the end of the run")
    assert folder.steps()[-1] == folder.status()["step"] > before
    assert (folder.result / "lora.safetensors").is_file()


def test_a_run_is_stopped_by_its_node_and_its_lora_is_listed_and_used(
    server: comfy_server.ComfyServer,
) -> None:
    server.run({"1": train("run")})
    waiting = {"2": status("run", "until finished")}
    number = server.post("/prompt", {"prompt": waiting})["prompt_id"]
    folder = RunFolder(server.base / "output" / "latte_training" / "run")
    wait_until(lambda: folder.status().get("step"), PATIENCE, "the first update")
    server.post("/interrupt", {})
    wait_until(lambda: server.get(f"/history/{number}"), PATIENCE, "the end of the waiting")
    messages = server.get(f"/history/{number}")[number]["status"]["messages"]
    assert "execution_interrupted" in [kind for kind, _ in messages]
    assert folder.status()["state"] == "running", "Cancel ends the waiting alone"

    stop = {"class_type": "LatteStopTraining", "inputs": {"run": "run", "seconds": PATIENCE}}
    stopped = text_of(server.run({"3": stop}), "3")

    assert "run is stopped after" in stopped and "models/loras" in stopped
    listed = server.get("/object_info/LatteLoraLoader")["LatteLoraLoader"]["input"]["required"]
    assert listed["lora_name"][0] == ["latte/run.safetensors"]
    stock = server.get("/object_info/LoraLoaderModelOnly")["LoraLoaderModelOnly"]
    assert "latte/run.safetensors" in str(stock["input"]["required"]["lora_name"])
    loader = {"model_name": "starter", "weight_dtype": "default"}
    lora = {"model": ["4", 0], "lora_name": "latte/run.safetensors", "strength": 1.0}
    used = server.run(
        {
            "4": {"class_type": "LatteModelLoader", "inputs": loader},
            "5": {"class_type": "LatteLoraLoader", "inputs": lora},
            "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 1]}},
        }
    )
    assert "run.safetensors" in text_of(used, "6")
