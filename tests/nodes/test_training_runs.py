"""Trainings that the nodes really run: started once, watched, stopped, failed and cut off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from latte_test_support.comfy import stand_in as comfy_stand_in
from latte_test_support.comfy.stand_in import Interrupted, StandIn
from latte_test_support.pack import ROOT
from latte_test_support.training_nodes import (
    PATIENCE,
    call,
    needs_starter,
    part,
    refusal,
    small,
    status_of,
    wait_until,
)

from latte_core.checkpoint.lora.writer import read_card
from latte_core.checkpoint.reading.reader import read_header
from latte_core.training.run_folder import RunFolder

FOREVER = 1_000_000  # updates


@needs_starter
def test_a_training_starts_once_shows_itself_and_ends_as_a_lora(trained: StandIn) -> None:
    widgets = small(data="videos", run_name="my/run", sample_every=2, sample_prompts="a red circle")
    before = time.monotonic()
    (run,) = call("LatteTrain", **widgets)
    assert run == "my_run"
    assert time.monotonic() - before < PATIENCE / 10, "it returns at once"
    assert call("LatteTrain", **widgets) == (run,)
    assert trained.unloaded == 1, "it was started once"
    with pytest.raises(refusal(), match="rank 2, steps was 3.*stop it first"):
        call("LatteTrain", **{**widgets, "steps": 4, "rank": 3})
    first = call("LatteTrainingStatus", run=run)
    assert "my_run is starting" in first["result"][2] or "preparing" in first["result"][2]
    assert first["result"][0].shape == (1, 480, 960, 3)
    assert first["result"][1].shape == (1, 64, 64, 3)

    last = call("LatteTrainingStatus", run="my/run", wait="until finished", seconds=PATIENCE)

    loss, sheet, text = last["result"]
    assert "my_run is finished: 3 of 3 updates." in text
    assert not torch.equal(loss, first["result"][0])
    assert sheet.shape[0] == 1 and sheet.std() > 0
    assert float(loss.min()) >= 0 and float(loss.max()) <= 1
    files = [
        trained.base / "temp" / one["subfolder"] / one["filename"] for one in last["ui"]["images"]
    ]
    assert len(files) == 2 and all(path.is_file() for path in files)
    assert trained.shown[-1][:2] == (3, 3)
    assert "PNG" in {kind for _, _, kind in trained.shown}
    assert trained.files("loras") == [str(Path("latte") / "my_run.safetensors")]
    header = read_header(Path(trained.full_path("loras", "latte/my_run.safetensors")))
    card = read_card("my_run", header.metadata)
    assert (card["rank"], card["blocks"], card["steps"]) == (2, "temporal", 3)
    assert call("LatteTrain", **widgets) == (run,)
    assert trained.unloaded == 1, "a finished run is not started again"
    with pytest.raises(refusal(), match="has made 3 updates with other settings: method or rank"):
        call("LatteTrain", **{**widgets, "rank": 3})


@needs_starter
def test_a_training_is_stopped_with_a_model_and_goes_on_later(trained: StandIn) -> None:
    widgets = small(method="all weights", steps=FOREVER)
    call("LatteTrain", **widgets)
    call("LatteTrainingStatus", run="run", wait="for progress", seconds=PATIENCE)
    assert trained.files("diffusion_models") == [], "nothing is copied while it runs"
    trained.is_cancelled = True
    with pytest.raises(Interrupted):
        call("LatteTrainingStatus", run="run", wait="until finished")
    trained.is_cancelled = False
    assert part("nodes.host.training.run").look(trained.base / "output/latte_training/run").is_alive

    (text,) = call("LatteStopTraining", run="run", seconds=PATIENCE)["result"]

    made = status_of(trained.base)["step"]
    assert f"run is stopped after {made} of {FOREVER} updates." in text
    assert "models/diffusion_models" in text
    path = Path(trained.full_path("diffusion_models", "latte/run.safetensors"))
    assert path.parents[1].name == "diffusion_models"
    found = part("latte_core.checkpoint.recognition.identify").identify(path)
    assert found.family is part("latte_core.checkpoint.recognition.families").Family.LATTE_T2V
    assert call("LatteStopTraining", run="run")["result"] == (text,), "there is nothing to stop"

    call("LatteTrain", **{**widgets, "steps": made + 1})
    call("LatteTrainingStatus", run="run", wait="until finished", seconds=PATIENCE)
    last = status_of(trained.base)
    assert (last["state"], last["step"]) == ("finished", made + 1)


@needs_starter
def test_a_failed_training_is_told_once_and_then_tried_again(trained: StandIn) -> None:
    widgets = small(num_frames=64)
    call("LatteTrain", **widgets)
    with pytest.raises(refusal(), match="run failed: None of 4 clips has the 64 frames"):
        call("LatteTrainingStatus", run="run", wait="until finished", seconds=PATIENCE)
    text = call("LatteTrainingStatus", run="run")["result"][2]
    assert "run failed: None of 4 clips" in text
    assert trained.unloaded == 1
    call("LatteTrain", **widgets)
    assert trained.unloaded == 2
    thread = part("nodes.host.training.process").find_process(
        trained.base / "output/latte_training/run"
    )
    thread.join(PATIENCE)
    with pytest.raises(refusal(), match="Queue again to try once more, from the start"):
        call("LatteTrain", **widgets)


@needs_starter
def test_a_training_ends_with_a_checkpoint_when_its_comfyui_is_killed(trained: StandIn) -> None:
    pytest.importorskip("psutil", reason="psutil is not installed; ComfyUI brings it along")
    script = Path(comfy_stand_in.__file__)
    widgets = {**small(steps=FOREVER), "learning_rate": 1e-4, "model": "starter"}
    widgets |= {"method": "LoRA (both)", "num_frames": 16, "precision": "auto"}
    widgets |= {"training_seed": 0, "sample_prompts": ""}
    command = [sys.executable, str(script), str(trained.base), json.dumps(widgets)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().decode().strip() == comfy_stand_in.STARTED
        wait_until(lambda: status_of(trained.base).get("step"), "the first update")
        with pytest.raises(refusal(), match="run goes on with other settings: steps was"):
            call("LatteTrain", **{**widgets, "steps": 5})
        other.kill()
    wait_until(lambda: status_of(trained.base)["state"] == "stopped", "the end of the training")
    folder = RunFolder(trained.base / "output" / "latte_training" / "run")
    assert folder.steps()[-1] == folder.status()["step"] > 0
    wait_until(
        lambda: not part("nodes.host.training.run").look(folder.path).is_alive,
        "the end of its process",
    )
    text = call("LatteTrainingStatus", run="run")["result"][2]
    assert "run is stopped after" in text and "models/loras" in text


def test_the_program_starts_from_odd_folders_and_from_a_python_that_looks_nowhere(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "latt\u00e9 v1.0 \u89c6\u9891"
    skip = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "latte_core", odd / "latte_core", ignore=skip)
    start = part("nodes.host.training.process").START
    command = [sys.executable, "-I", "-X", "utf8", "-c", start, str(odd), "train", "--help"]
    done = subprocess.run(command, capture_output=True, cwd=odd, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--stop-with-input" in done.stdout
