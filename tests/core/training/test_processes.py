"""Runs of the command itself: killed and gone on with, and split over processes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.source import ROOT
from latte_test_support.tiny.training import CLASS_MODEL, tiny_config, write_set

from latte_core.training.run import train
from latte_core.training.run_folder import RunFolder

NUM_STEPS = 40
KILLS = 10


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    """Write the config of a run into the folder NAME beside it, and return its path."""
    config = tiny_config(folder / "set", folder / name, **changes)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config.to_dict()))
    return path


def environment(**values: str) -> dict[str, str]:
    """Return the environment of a process with one thread, and none of a launcher's settings."""
    launcher = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    kept = {key: value for key, value in os.environ.items() if key not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", **values}


def start(config: Path, *more: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start `train CONFIG` on the CPU."""
    command = [sys.executable, "-m", "latte_core", "train", str(config), "--device", "cpu", *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process that has to end well, and return what it printed."""
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error.decode()
    return out.decode()


def step_of(folder: RunFolder) -> int:
    """Return the last step a run has reported."""
    entries = folder.log()
    return int(entries[-1]["step"]) if entries else 0


def weights_of(output: Path) -> Mapping[str, torch.Tensor]:
    state = RunFolder(output).load()
    assert state is not None
    assert state["step"] == NUM_STEPS
    return {**state["model"], **{f"ema {key}": value for key, value in state["ema"].items()}}


def wait_for_update(folder: RunFolder, process: subprocess.Popen[bytes], wanted: int) -> None:
    """Return when a run has reported an update, or has ended."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and step_of(folder) < wanted:
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_in_the_same_bits(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    changes = {"num_steps": NUM_STEPS, "save_every": 1, "log_every": 1}
    killed = write_config(tmp_path, "killed", **changes)
    rng = random.Random(5)
    folder = RunFolder(tmp_path / "killed")
    for kill in range(KILLS):
        process = start(killed)
        wait_for_update(folder, process, 1 + kill * 3)
        time.sleep(rng.uniform(0, 0.05))  # anywhere in an update, a report or a checkpoint
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(killed))
    straight = tiny_config(tmp_path / "set", tmp_path / "straight", **changes)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(straight, device="cpu")
    finally:
        torch.set_num_threads(torch_threads)
    first, second = weights_of(tmp_path / "straight"), weights_of(tmp_path / "killed")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    steps = [entry["step"] for entry in folder.log()]
    assert steps == list(range(1, NUM_STEPS + 1))
    leftovers = [path.name for path in folder.path.rglob("*.part*")]
    assert len(leftovers) <= KILLS  # partial files never take a final name


def test_interrupting_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    config = write_config(tmp_path, "run", num_steps=100_000, log_every=1, save_every=100_000)
    process = start(config)
    folder = RunFolder(tmp_path / "run")
    wait_for_update(folder, process, 2)
    process.send_signal(signal.SIGINT)
    assert "Start the same command again to go on." in finish(process)
    assert folder.status()["state"] == "stopped"
    assert folder.steps() == [folder.status()["step"]]


def test_closing_the_input_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    config = write_config(tmp_path, "run", num_steps=100_000, log_every=1, save_every=100_000)
    process = start(config, "--stop-with-input")
    folder = RunFolder(tmp_path / "run")
    wait_for_update(folder, process, 2)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    finish(process)
    assert folder.status()["state"] == "stopped"
    assert folder.steps() == [folder.status()["step"]]


def test_a_run_that_finishes_while_its_input_is_open_ends_well(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    process = start(write_config(tmp_path, "run", num_steps=2), "--stop-with-input")
    assert process.wait(timeout=120) == 0
    assert RunFolder(tmp_path / "run").status()["state"] == "finished"
    assert "The weights are in" in finish(process)


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.parametrize("changes", [{}, {"architecture": CLASS_MODEL, "num_images": 2}])
def test_two_processes_learn_what_one_does(changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    write_set(tmp_path / "set")
    values = {"num_steps": 50, "save_every": 1000, "learning_rate": 1e-4, **changes}
    config = write_config(tmp_path, "two", **values)
    port = free_port()
    ranks = [
        start(
            config,
            WORLD_SIZE="2",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    for process in ranks:
        finish(process)
    train(tiny_config(tmp_path / "set", tmp_path / "one", **values), device="cpu")
    first, second = RunFolder(tmp_path / "one").load(), RunFolder(tmp_path / "two").load()
    assert first is not None and second is not None
    assert first["step"] == second["step"] == 50
    far = {k: float((v - second["model"][k]).abs().max()) for k, v in first["model"].items()}
    assert max(far.values()) <= 1e-5
    losses = [[entry["loss"] for entry in RunFolder(tmp_path / k).log()] for k in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def start_sharded(config: Path) -> list[subprocess.Popen[bytes]]:
    """Start two processes that hold half of every weight each."""
    port = free_port()
    script = ROOT / "tests" / "support" / "sharded_training.py"
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(config)],
            env=environment(
                WORLD_SIZE="2",
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 2.0, "blocks": "temporal"}])
def test_weights_spread_over_processes_learn_the_same_and_go_on_alone(
    lora: dict[str, Any] | None, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    write_set(tmp_path / "set")
    base = tiny_config(tmp_path / "set", tmp_path / "base", num_steps=1)
    changes: dict[str, Any] = {"num_steps": 6, "learning_rate": 1e-4, "save_every": 3}
    if lora is not None:
        train(base, device="cpu")
        changes |= {"architecture": None, "model": str(tmp_path / "base" / "result"), "lora": lora}
    for process in start_sharded(write_config(tmp_path, "sharded", **changes)):
        finish(process)
    config = tiny_config(tmp_path / "set", tmp_path / "one", **changes)
    result = train(config, device="cpu")
    first, second = RunFolder(tmp_path / "one").load(), RunFolder(tmp_path / "sharded").load()
    assert first is not None and second is not None
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        far = {k: float((v - second[part][k]).abs().max()) for k, v in first[part].items()}
        assert max(far.values()) <= 1e-5
    written = [path.relative_to(result) for path in result.rglob("*.safetensors")]
    assert written == [
        path.relative_to(tmp_path / "sharded" / "result")
        for path in (tmp_path / "sharded" / "result").rglob("*.safetensors")
    ]
    longer = {**changes, "num_steps": 8}  # one process goes on from the checkpoint of two
    train(tiny_config(tmp_path / "set", tmp_path / "sharded", **longer), device="cpu")
    train(tiny_config(tmp_path / "set", tmp_path / "one", **longer), device="cpu")
    first, second = RunFolder(tmp_path / "one").load(), RunFolder(tmp_path / "sharded").load()
    assert first is not None and second is not None
    far = {k: float((v - second["model"][k]).abs().max()) for k, v in first["model"].items()}
    assert max(far.values()) <= 1e-5
