"""Training configs: read, checked and written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latte_core.errors import InvalidInputError
from latte_core.model.weights.lora import LoraSettings
from latte_core.training.train_config import TrainConfig, parse_config

LEAST: dict[str, Any] = {"data": "set", "output": "run"}


def test_the_defaults_are_the_authors_recipe() -> None:
    config = TrainConfig.from_dict(LEAST)
    assert (config.learning_rate, config.weight_decay, config.betas) == (1e-4, 0.0, (0.9, 0.999))
    assert (config.ema_decay, config.clip_norm, config.seed) == (0.9999, 0.1, 3407)
    assert (config.num_frames, config.interval, config.batch_size) == (16, 3, 40)
    assert (config.schedule, config.warm_up, config.weighting) == ("constant", 0, "none")
    assert (config.num_steps, config.save_every) == (1_000_000, 10_000)


def test_a_config_is_written_and_read_back_whole() -> None:
    lora = {"rank": 4, "alpha": 8.0, "blocks": "temporal"}
    config = TrainConfig.from_dict({**LEAST, "data": ["a", "b"], "lora": lora})
    assert config.lora == LoraSettings(rank=4, alpha=8.0, blocks="temporal")
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0 in the training config; it must be a whole number"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"num_steps": True}, "num_steps is True"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"schedule": "linear"}, "schedule is 'linear' .* one of constant, cosine"),
        ({"frame_choice": "all"}, "linspace, stride, scattered"),
        ({"precision": "fp16"}, "float32, bfloat16, float16"),
        ({"flip": "yes"}, "true or false"),
        ({"betas": [0.9]}, "two numbers"),
        ({"data": []}, "data is 'empty'"),
        ({"data": 5}, "a text or a list of texts"),
        ({"seed": -1}, "seed"),
        ({"initialize_from": "dit.pt"}, "there is no architecture"),
        ({"lora": {"ranks": 3}}, "lora has no use for ranks"),
        ({"epochs": 3}, "has no use for epochs"),
    ],
)
def test_values_that_cannot_be_used_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TrainConfig.from_dict({**LEAST, **changes})


def test_missing_keys_are_named() -> None:
    with pytest.raises(InvalidInputError, match="lacks data, output"):
        TrainConfig.from_dict({})


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": "set", "output": "run", "learning_rate": 1e-5}')
    (tmp_path / "a.yaml").write_text("data: set\noutput: run\nlearning_rate: 1e-5\n")
    assert parse_config(tmp_path / "a.json") == parse_config(tmp_path / "a.yaml")
    assert parse_config(tmp_path / "a.yaml").learning_rate == 1e-5


def test_changes_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**LEAST, "lora": {"rank": 4, "alpha": 4.0}}))
    changed = parse_config(tmp_path / "a.json", {"num_steps": 7, "lora.rank": 2})
    assert changed.num_steps == 7
    assert changed.lora is not None and changed.lora.rank == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.yaml", "a: [1"),
        ("a.yaml", "!!python/object/apply:os.system ['true']"),
        ("a.txt", "data: set"),
    ],
)
def test_files_that_are_no_config_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=name if name != "a.txt" else "no training config"):
        parse_config(tmp_path / name)
