"""A run that breaks down keeps its last good checkpoint, and goes on from it as it is advised."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latte_test_support.tiny.training import CLASS_MODEL, PLAIN_MODEL, tiny_config, write_set

from latte_core.checkpoint import read_tensors
from latte_core.errors import CorruptCheckpointError, InvalidInputError, NonFiniteError
from latte_core.training.run import open_data, train
from latte_core.training.run_folder import RunFolder
from latte_core.training.soundness import RUINED, broken, first_not_finite, ruin
from latte_core.training.state import read_state, save_state
from latte_core.training.subject import open_subject
from latte_core.training.trainer import Trainer
from latte_core.training.workers import OneProcess

BROKEN = {"learning_rate": 1e6, "num_steps": 12}
ADVISED = {"learning_rate": 1e-4, "warm_up": 9, "clip_norm": 1.0, "clip_from": 0, "num_steps": 12}
LORA = {"rank": 2, "alpha": 2.0, "blocks": "both", "targets": ["attention", "feed_forward"]}
EVERY = {"log_every": 100, "save_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    write_set(folder)
    return folder


@pytest.fixture(scope="module")
def base(data: Path) -> Path:
    """Return a model for adapters."""
    return train(tiny_config(data, data.parent / "base", num_steps=2), device="cpu")


def run(data: Path, output: Path, **changes: Any) -> Path:
    return train(tiny_config(data, output, **changes), device="cpu")


def trainer_of(data: Path, output: Path, **changes: Any) -> Trainer:
    """Return a trainer in front of its first update."""
    config = tiny_config(data, output, **changes)
    folder, workers = RunFolder(output), OneProcess("float32", "cpu")
    folder.open(config.to_dict(), frozenset())
    subject = open_subject(config, "cpu")
    opened = open_data(config, subject, workers, folder, lambda: False)
    return Trainer(config, subject, opened, workers, folder)


RUNS: dict[str, dict[str, Any]] = {
    "text": {},
    "report first": {"log_every": 1, "save_every": 100},
    "seldom looked at": {"log_every": 100, "save_every": 100},
    "class": {"architecture": CLASS_MODEL, **EVERY},
    "unconditional, half": {"architecture": PLAIN_MODEL, "precision": "bfloat16", **EVERY},
    "average kept long": {"ema_decay": 0.9999, **EVERY},
    "average warmed up": {"ema_decay": 0.99, "ema_warm_up": True, **EVERY},
    "no average": {"ema_decay": 0.0, **EVERY},
    "one checkpoint": {"keep": 1, **EVERY},
    "no limit": {"clip_norm": 0.0, **EVERY},
    "adapter": {"lora": LORA, **EVERY},
    "adapter, reported": {"lora": LORA, "log_every": 1, "save_every": 100},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_breaks_down_goes_on_with_the_advised_settings(
    name: str, data: Path, base: Path, tmp_path: Path
) -> None:
    changes = dict(RUNS[name])
    if "lora" in changes:
        changes |= {"architecture": None, "model": str(base)}
    folder = RunFolder(tmp_path / "run")
    run(data, folder.path, **{**changes, "num_steps": 3})
    before = {path: path.read_bytes() for path in folder.result.rglob("*.safetensors")}

    with pytest.raises(NonFiniteError, match=r"broke down at update \d+:.*checkpoint, of update"):
        run(data, folder.path, **{**changes, **BROKEN})

    assert folder.status()["state"] == "failed"
    last = folder.steps()[-1]
    assert f"of update {last}, stays as it is" in folder.status()["message"]
    assert all(first_not_finite(read_state(folder.state_file(step))) is None
               for step in folder.steps())  # fmt: skip
    assert before == {path: path.read_bytes() for path in before}

    result = run(data, folder.path, **{**changes, **ADVISED})
    assert folder.status()["state"] == "finished"
    assert folder.log()[-1]["loss"] < RUINED
    weights = next(result.rglob("*.safetensors"))
    assert first_not_finite(read_tensors(weights).tensors) is None
    entries = [json.loads(line) for line in folder.changes_file.read_text().splitlines()]
    assert (entries[-1]["step"], entries[-1]["changed"]["learning_rate"]) == (last, [1e6, 1e-4])


def test_a_run_that_breaks_down_at_once_begins_anew_with_the_advised_settings(
    data: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"at update 1:.*no checkpoint yet.*begins anew"):
        run(data, folder.path, **BROKEN, **EVERY)
    assert folder.steps() == [] and not folder.result.exists()
    run(data, folder.path, **{**ADVISED, **EVERY, "num_steps": 2})
    assert folder.status()["state"] == "finished"


def spoil_weights(trainer: Trainer) -> None:
    next(iter(trainer.trained.values())).data.view(-1)[0] = float("nan")


def spoil_average(trainer: Trainer) -> None:
    next(iter(trainer.average.values.values())).view(-1)[0] = float("inf")


def spoil_moments(trainer: Trainer) -> None:
    next(iter(trainer.optimizer.state.values()))["exp_avg_sq"].view(-1)[-1] = float("inf")


def spoil_answers(trainer: Trainer) -> None:
    weights = trainer.trained["proj_out.weight"].data
    weights.copy_(torch.full_like(weights, 3e4))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, r"model\.[\w.]+ is not finite"),
        (spoil_average, r"ema\.[\w.]+ is not finite"),
        (spoil_moments, r"optimizer\.state\.\d+\.exp_avg_sq is not finite"),
        (spoil_answers, r"the squared error of the noise is \d.*guessing nothing has 1"),
    ],
)
def test_nothing_that_cannot_be_gone_on_from_is_written(
    spoil: Callable[[Trainer], None], message: str, data: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(data, tmp_path / "run")
    trainer.update(trainer.make_parts(0))
    trainer.save()
    written = trainer.folder.state_file(1).read_bytes()
    trainer.update(trainer.make_parts(1))
    spoil(trainer)
    with pytest.raises(NonFiniteError, match=f"broke down at update 2: after it {message}"):
        trainer.save()
    assert trainer.folder.steps() == [1]
    assert trainer.folder.state_file(1).read_bytes() == written


def test_the_update_that_broke_a_run_is_named_however_seldom_it_is_reported(
    data: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(data, tmp_path / "run")
    for step in range(5):
        trainer.update(trainer.make_parts(step))
    trainer.seen[2][1] = float("nan")
    with pytest.raises(NonFiniteError, match="at update 3: the squared error of the noise is nan"):
        trainer.report()


def test_states_of_other_training_loops_are_finite_too(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(tmp_path / "vae.pt", model, optimizer, 1)
    written = (tmp_path / "vae.pt").read_bytes()
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"vae\.pt was not written: model\.weight"):
        save_state(tmp_path / "vae.pt", model, optimizer, 2)
    assert (tmp_path / "vae.pt").read_bytes() == written


@pytest.mark.parametrize(
    ("losses", "is_ruined"),
    [((2.0, 1.0), False), ((9e9, 9e3), False), ((2.0, 2e4), True), ((float("inf"), 1.0), True)],
)
def test_weights_are_judged_by_their_error_of_the_noise(
    losses: tuple[float, float], is_ruined: bool
) -> None:
    found = ruin({"loss": losses[0], "squared error of the noise": losses[1]})
    assert (found is not None) is is_ruined


def test_advice_names_settings_that_a_run_accepts(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", num_steps=2)
    advice = str(broken(2, "the loss is nan", [2]))
    values = {"learning_rate": 1e-5, "warm_up": 3, "clip_norm": 0.5, "clip_from": 1}
    assert all(name in advice for name in (*values, "precision"))
    run(data, tmp_path / "run", **values, num_steps=3, precision="bfloat16")
    changes = json.loads((tmp_path / "run" / "changes.jsonl").read_text())
    assert set(changes["changed"]) == {*values, "num_steps", "precision"}


@pytest.mark.parametrize(
    "changes", [{"batch_size": 2}, {"seed": 1}, {"ema_decay": 0.5}, {"betas": [0.8, 0.9]}]
)
def test_what_would_make_it_another_run_is_refused(
    changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "run", num_steps=2)
    with pytest.raises(InvalidInputError, match=f"other settings: {next(iter(changes))} was"):
        run(data, tmp_path / "run", num_steps=2, **changes)
    assert not (tmp_path / "run" / "changes.jsonl").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_text(path: Path) -> None:
    path.write_text("<html>404</html>" * 100)


def put_list(path: Path) -> None:
    torch.save([1, 2], path)


def put_module(path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), path)


def rewriting(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes a state and writes it again, with checksums that fit."""

    def rewrite(path: Path) -> None:
        state = read_state(path)
        change(state)
        torch.save(state, path)

    return rewrite


def put_nan(state: dict[str, Any]) -> None:
    next(iter(state["ema"].values())).view(-1)[0] = float("nan")


def cut_weight(state: dict[str, Any]) -> None:
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name][:1].clone()


def cut_moment(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut short": cut,
    "bytes of it were changed": change_byte,
    "it is cut short": empty,
    "is cut short": put_text,
    "holds a list and no table": put_list,
    "not what a training writes": put_module,
    "ema.*not finite": rewriting(put_nan),
    "lacks optimizer": rewriting(lambda state: state.pop("optimizer")),
    "step is 'six'": rewriting(lambda state: state.update(step="six")),
    "model has other weights": rewriting(cut_weight),
    "ema has other weights": rewriting(lambda state: state["ema"].update(more=torch.zeros(1))),
    "optimizer is of another model": rewriting(cut_moment),
    "its optimizer is of another": rewriting(lambda state: state["optimizer"].clear()),
    "its optimizer is of": rewriting(lambda state: state.update(optimizer=3)),
}


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    """Return a run with checkpoints of updates 2 and 4."""
    run(data, data.parent / "finished", num_steps=4)
    return data.parent / "finished"


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_named_with_the_one_to_go_on_from(
    what: str, finished: Path, data: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    DAMAGE[what](folder.state_file(4))
    way = "Remove step-00000004 from checkpoints in run to go on from update 2."
    with pytest.raises(CorruptCheckpointError, match=f"step-00000004.*{what}.*{way}"):
        run(data, folder.path, num_steps=5)
    assert folder.steps() == [2, 4]
    assert len(folder.log()) == 2


def test_a_run_goes_on_when_the_damaged_checkpoints_are_removed_as_it_says(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    change_byte(folder.state_file(4))
    shutil.rmtree(folder.checkpoint(4))
    run(data, folder.path, num_steps=4)
    first, second = RunFolder(finished).load(), folder.load()
    assert first is not None and second is not None
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())


def test_a_run_without_a_whole_checkpoint_says_how_to_begin_anew(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    change_byte(folder.state_file(4))
    cut(folder.state_file(2))
    with pytest.raises(CorruptCheckpointError, match="Remove checkpoints in run to begin anew"):
        run(data, folder.path, num_steps=4)
    shutil.rmtree(folder.path / "checkpoints")
    run(data, folder.path, num_steps=1)
    assert folder.steps() == [1]


def test_any_changed_byte_of_a_checkpoint_is_found_or_counts_nothing(
    finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "step-00000004" / "state.pt"
    path.parent.mkdir()
    content = RunFolder(finished).state_file(4).read_bytes()
    path.write_bytes(content)
    whole = read_state(path)
    rng = random.Random(3)
    for _ in range(60):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            state = read_state(path)
        except CorruptCheckpointError:
            continue
        assert all(torch.equal(value, state["model"][k]) for k, value in whole["model"].items())
        assert all(torch.equal(value, state["ema"][k]) for k, value in whole["ema"].items())
