"""Training runs of tiny models: resumed, split, recomputed and joint ones give the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.training import CLASS_MODEL, PLAIN_MODEL, tiny_config, write_set
from torch import Tensor

from latte_core.checkpoint import load_transformer, read_tensors
from latte_core.errors import IncompatibleInputsError, InvalidInputError, NonFiniteError
from latte_core.training.run import train
from latte_core.training.run_folder import RunFolder
from latte_core.training.trainer import Report


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    return folder


def run(
    data: Path, output: Path, stop_after: int | None = None, **changes: Any
) -> Mapping[str, Tensor]:
    """Train on the CPU and return the averaged weights."""
    made: list[int] = []

    def should_stop() -> bool:
        made.append(0)
        return stop_after is not None and len(made) > stop_after

    result = train(tiny_config(data, output, **changes), device="cpu", should_stop=should_stop)
    return read_tensors(result / "transformer").tensors


def state_of(output: Path) -> dict[str, Any]:
    state = RunFolder(output).load()
    assert state is not None
    return state


def require_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


MODELS = {
    "text": {},
    "class": {"architecture": CLASS_MODEL},
    "unconditional": {"architecture": PLAIN_MODEL},
    "joint text": {"num_images": 2},
    "joint class": {"architecture": CLASS_MODEL, "num_images": 2},
    "joint unconditional": {"architecture": PLAIN_MODEL, "num_images": 2},
    "variant 3": {"architecture": {**CLASS_MODEL, "variant": 3}},
    "scattered": {"frame_choice": "scattered"},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_learns_and_its_result_opens(
    name: str, data: Path, tmp_path: Path
) -> None:
    weights = run(data, tmp_path / "run", **MODELS[name])
    model = load_transformer(tmp_path / "run" / "result" / "transformer")
    assert set(model.state_dict()) == set(weights)
    state = state_of(tmp_path / "run")
    moved = [k for k, v in state["model"].items() if not torch.equal(v, state["ema"][k])]
    assert len(moved) > len(state["model"]) / 3  # idle blocks learn once their gates have opened
    status = RunFolder(tmp_path / "run").status()
    assert (status["state"], status["step"], status["num_steps"]) == ("finished", 6, 6)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(
    stop_after: int, data: Path, tmp_path: Path
) -> None:
    straight = run(data, tmp_path / "straight")
    run(data, tmp_path / "stopped", stop_after=stop_after)
    assert RunFolder(tmp_path / "stopped").status()["state"] == "stopped"
    assert RunFolder(tmp_path / "stopped").steps()[-1] == stop_after
    require_equal(straight, run(data, tmp_path / "stopped"))
    first, second = state_of(tmp_path / "straight"), state_of(tmp_path / "stopped")
    require_equal(first["model"], second["model"])


def test_a_longer_run_goes_on_from_a_finished_one(data: Path, tmp_path: Path) -> None:
    straight = run(data, tmp_path / "straight", num_steps=5)
    run(data, tmp_path / "run", num_steps=3)
    require_equal(straight, run(data, tmp_path / "run", num_steps=5))


def test_other_settings_do_not_go_on_with_a_run(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", num_steps=2)
    with pytest.raises(InvalidInputError, match="weight_decay was 0.0"):
        run(data, tmp_path / "run", num_steps=2, weight_decay=0.1)
    assert RunFolder(tmp_path / "run").steps() == [2]


@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"micro_batch": 2}])
def test_parts_of_a_batch_add_up_to_the_whole(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    whole = run(data, tmp_path / "whole", learning_rate=1e-4)
    parts = run(data, tmp_path / "parts", learning_rate=1e-4, **changes)
    far = max(float((whole[name] - parts[name]).abs().max()) for name in whole)
    assert far < 1e-5


@pytest.mark.parametrize("name", ["text", "joint text", "class", "variant 3"])
def test_recomputed_activations_change_nothing(name: str, data: Path, tmp_path: Path) -> None:
    kept = run(data, tmp_path / "kept", **MODELS[name])
    again = run(data, tmp_path / "again", checkpoint_activations=True, **MODELS[name])
    require_equal(kept, again)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_runs_and_keeps_float32_weights(
    precision: str, data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "run", precision=precision)
    assert {v.dtype for v in state_of(tmp_path / "run")["model"].values()} == {torch.float32}
    losses = [entry["loss"] for entry in RunFolder(tmp_path / "run").log()]
    plain = run(data, tmp_path / "plain") and RunFolder(tmp_path / "plain").log()
    assert losses == pytest.approx([entry["loss"] for entry in plain], rel=0.05)
    assert losses != [entry["loss"] for entry in plain]


def test_sets_with_spread_and_mirrored_latents_are_drawn_from(tmp_path: Path) -> None:
    write_set(tmp_path / "rich", has_std=True, has_flips=True)
    write_set(tmp_path / "bare")
    rich = run(tmp_path / "rich", tmp_path / "a", flip=True)
    bare = run(tmp_path / "bare", tmp_path / "b")
    assert any(not torch.equal(rich[name], bare[name]) for name in rich)
    with pytest.raises(IncompatibleInputsError, match="--flips"):
        run(tmp_path / "bare", tmp_path / "c", flip=True)


def test_training_leaves_the_global_random_numbers_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run(data, tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())


def test_reports_are_logged_and_drawn(data: Path, tmp_path: Path) -> None:
    seen: list[Report] = []
    train(tiny_config(data, tmp_path / "run"), device="cpu", on_report=seen.append)
    log = RunFolder(tmp_path / "run").log()
    assert [entry["step"] for entry in log] == [2, 4, 6] == [one.step for one in seen]
    assert all(entry["loss"] > 0 and entry["norm"] > 0 for entry in log)
    assert log[0]["loss"] == pytest.approx(log[0]["squared"] + log[0]["variational"], rel=1e-6)
    picture = (tmp_path / "run" / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_steps"] == 6


def test_only_the_newest_checkpoints_are_kept(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", save_every=1, keep=3)
    assert RunFolder(tmp_path / "run").steps() == [4, 5, 6]


def test_a_stop_file_ends_the_run_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def stop(report: Report) -> None:
        if report.step == 4:
            folder.request_stop()

    train(tiny_config(data, tmp_path / "run"), device="cpu", on_report=stop)
    assert folder.status()["state"] == "stopped"
    assert folder.steps()[-1] == 4


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError, match="Lower learning_rate"):
        run(data, tmp_path / "run", learning_rate=10.0, num_steps=200, save_every=1000, clip_norm=0)
    assert RunFolder(tmp_path / "run").status()["state"] == "failed"


def test_a_gradient_is_limited_from_an_update_on(data: Path, tmp_path: Path) -> None:
    free = run(data, tmp_path / "free", num_steps=2, clip_norm=1e-3, clip_from=9)
    late = run(data, tmp_path / "late", num_steps=2, clip_norm=1e-3, clip_from=2)
    limited = run(data, tmp_path / "limited", num_steps=2, clip_norm=1e-9, clip_from=1)
    require_equal(free, late)
    assert any(not torch.equal(free[name], limited[name]) for name in free)


def test_a_batch_that_cannot_be_split_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="batch_size 4 cannot be split"):
        run(data, tmp_path / "run", micro_batch=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 10}, "None of 10 clips has the 10 frames"),
        ({"architecture": {**CLASS_MODEL, "num_classes": 4}}, "4 classes, but the prepared set"),
        ({"architecture": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 16,
                           "cross_attention_dim": 16, "caption_channels": 9}}, "width 9"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run(data, tmp_path / "run", **changes)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no folder nowhere"):
        run(tmp_path / "nowhere", tmp_path / "run")


def test_clips_that_are_too_short_are_left_out_with_a_count(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="latte"):
        run(data, tmp_path / "run", num_frames=7)  # clips have 7, 5 and 9 frames in turn
    assert "3 clips have too few frames and are left out." in caplog.text
