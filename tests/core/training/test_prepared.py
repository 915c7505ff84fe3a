"""Runs on folders of videos: prepared first, in the run's own folder, and only once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latte_core.checkpoint import read_tensors
from latte_core.cli.main import main
from latte_core.data.sets import LatentSet
from latte_core.errors import InvalidInputError
from latte_core.files import read_json
from latte_core.shipped import STARTER_FOLDER
from latte_core.training.run import train
from latte_core.training.run_folder import RunFolder
from latte_core.training.train_config import TrainConfig


def config_for(data: Path, output: Path, **changes: object) -> TrainConfig:
    return TrainConfig.from_dict(
        {
            "data": str(data),
            "output": str(output),
            "model": "starter",
            "num_frames": 4,
            "interval": 1,
            "num_steps": 2,
            "batch_size": 2,
            "lora": {"rank": 2, "alpha": 2.0, "blocks": "temporal"},
            "sample_every": 1,
            "sample_steps": 2,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "clips"
    assert main(["draw-clips", str(folder), "--num", "3", "--frames", "6"]) == 0
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_videos_are_prepared_once_and_trained_on(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = train(config_for(clips, output), device="cpu")
    found = LatentSet.open(output / "data-0", verify=True)
    assert (len(found), len(found.skipped)) == (3, 1)
    assert (result / "lora.safetensors").is_file()
    written = (output / "data-0" / "set.json").stat().st_mtime_ns
    train(config_for(clips, output, num_steps=3), device="cpu")
    assert (output / "data-0" / "set.json").stat().st_mtime_ns == written
    assert RunFolder(output).status()["step"] == 3


def test_a_stop_while_preparing_ends_the_run_and_keeps_what_is_prepared(
    clips: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train(config_for(clips, output), device="cpu", should_stop=lambda: True)
    status = RunFolder(output).status()
    assert (status["state"], status["step"]) == ("stopped", 0)
    assert not (output / "data-0" / "set.json").exists()
    train(config_for(clips, output), device="cpu")
    assert RunFolder(output).status()["state"] == "finished"


def test_samples_are_pictures_and_videos_of_captions_of_the_data(
    clips: Path, tmp_path: Path
) -> None:
    train(config_for(clips, tmp_path / "run"), device="cpu")
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == [f"step-0000000{k}.{kind}" for k in (1, 2) for kind in ("mp4", "png")]


def test_all_weights_of_a_model_go_out_with_what_it_needs(clips: Path, tmp_path: Path) -> None:
    config = config_for(clips, tmp_path / "run", lora=None, learning_rate=1e-5)
    result = train(config, device="cpu")
    before = read_tensors(STARTER_FOLDER / "transformer").tensors
    after = read_tensors(result / "transformer").tensors
    assert before.keys() == after.keys()
    far = max(float((before[name].float() - after[name]).abs().max()) for name in before)
    assert 0 < far < 1e-3
    card = read_json(result / "card.json")
    assert (card["name"], card["base"], card["num_steps"]) == ("run", "starter", 20)
    assert "scores" not in card and "recipe" not in card
    for name in ("text_encoder", "vae"):
        first = read_tensors(STARTER_FOLDER / name).tensors
        second = read_tensors(result / name).tensors
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_folder_without_videos_is_refused_and_the_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError):
        train(config_for(tmp_path / "empty", tmp_path / "run"), device="cpu")
    status = RunFolder(tmp_path / "run").status()
    assert status["state"] == "failed"
    assert status["message"]
