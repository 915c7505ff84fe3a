"""The starters' training, run for single steps: each part is written, loads and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latte_core.checkpoint import read_tensors
from latte_core.data.sets import LatentSet
from latte_core.errors import InvalidInputError
from latte_core.files import read_json
from latte_core.model.latte.transformer import Latte
from latte_core.model.t2v.transformer import LatteT2V
from latte_core.pipelines.text.pipeline import Pipeline
from latte_core.shipped import STARTER_FOLDER
from latte_core.starter import text_starter as starter
from latte_core.starter.recipe import CLASS_CONFIG, COMMON, STARTER_CONFIG, TEXT_SETS, TEXT_STAGES
from latte_core.starter.scenes import is_held_out
from latte_core.starter.text_encoder import TEXT_WIDTH
from latte_core.training.initial_weights import initialize_class, initialize_text
from latte_core.training.run_folder import RunFolder
from latte_core.training.subject import is_end
from latte_core.training.train_config import TrainConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A starter after one step of each part."""
    base = tmp_path_factory.mktemp("starter")
    starter.train_starter(base / "model", base / "work", steps_scale=1e-9)
    return base


def test_a_trained_folder_opens_through_the_ordinary_pipeline(made: Path) -> None:
    result = Pipeline.from_pretrained(made / "model")("a red circle moving left", num_steps=2)
    assert result.frames is not None
    assert result.frames.shape == (16, 64, 64, 3)


def test_the_folder_is_small_enough_to_ship_and_lists_every_file(made: Path) -> None:
    folder = made / "model"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    digests = json.loads((folder / "digests.json").read_text())
    names = {path.relative_to(folder).as_posix() for path in files} - {"digests.json"}
    assert set(digests) == names


def test_every_stage_is_an_ordinary_run_on_its_own_set(made: Path) -> None:
    for number, stage in enumerate(TEXT_STAGES):
        folder = RunFolder(made / "work" / f"stage-{number}")
        config = read_json(folder.path / "config.json")
        assert folder.status()["state"] == "finished"
        assert Path(config["data"][0]).name == stage.data
        assert (config["num_frames"], config["batch_size"]) == (
            stage.settings["num_frames"],
            stage.settings["batch_size"],
        )
    first = read_json(made / "work" / "stage-1" / "config.json")
    assert Path(first["model"]) == made / "work" / "stage-0" / "result"


def test_text_training_never_shows_what_is_held_out(made: Path) -> None:
    words = {"yellow": "triangle", "purple": "square", "green": "circle"}
    for one in TEXT_SETS:
        found = LatentSet.open(made / "work" / "sets" / one.name)
        for clip in range(len(found)):
            for number in found.caption_ids(clip):
                said = found.caption(number)
                assert not any(f"{a} {b}" in said for a, b in words.items())
    assert all(is_held_out(look) for look in words.items())


def test_a_finished_training_is_not_run_again(made: Path) -> None:
    weights = made / "model" / "transformer"
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    logs = [(made / "work" / f"stage-{k}" / "log.jsonl").read_bytes() for k in range(5)]
    starter.train_starter(made / "model", made / "work", steps_scale=1e-9)
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before
    assert logs == [(made / "work" / f"stage-{k}" / "log.jsonl").read_bytes() for k in range(5)]


def test_a_starter_can_be_trained_further_from_its_own_files(made: Path, tmp_path: Path) -> None:
    source = made / "model"
    starter.train_starter(
        tmp_path / "next", tmp_path / "work", seed=1, steps_scale=1e-9, start_from=source
    )
    for name in ("vae", "vae_temporal_decoder", "tokenizer", "text_encoder"):
        for path in (source / name).iterdir():
            assert path.read_bytes() == (tmp_path / "next" / name / path.name).read_bytes()
    before = read_tensors(source / "transformer").tensors
    after = read_tensors(tmp_path / "next" / "transformer").tensors
    far = max(float((before[name].float() - after[name].float()).abs().max()) for name in before)
    assert 0 < far < 0.01  # one step at the first rate of the warm-up
    card = json.loads((tmp_path / "next" / "card.json").read_text())
    assert [run["seed"] for run in card["recipe"]["runs"]] == [0, 1]


def test_a_starter_can_be_trained_anew_on_the_parts_of_another(tmp_path: Path) -> None:
    starter.train_starter(
        tmp_path / "next", tmp_path / "work", seed=1, steps_scale=1e-9, base=STARTER_FOLDER
    )
    for name in ("vae", "vae_temporal_decoder", "tokenizer", "text_encoder"):
        for path in (STARTER_FOLDER / name).iterdir():
            assert path.read_bytes() == (tmp_path / "next" / name / path.name).read_bytes()
    run = json.loads((tmp_path / "next" / "card.json").read_text())["recipe"]["runs"][0]
    assert run["image_vae"] == 0
    assert len(run["stages"]) == len(TEXT_STAGES)


def test_the_recipe_is_made_of_settings_that_a_run_takes() -> None:
    for stage in TEXT_STAGES:
        config = TrainConfig.from_dict({**COMMON, **stage.settings, "data": "set", "output": "run"})
        assert config.weighting == "min_snr"
    with pytest.raises(InvalidInputError, match="stretch"):
        TrainConfig.from_dict({**COMMON, "stretch": 1, "data": "set", "output": "run"})


def test_new_networks_return_their_input() -> None:
    """Within the unevenness of LayerNorm over the tables, and exactly in the tables' absence."""
    latents = torch.randn(2, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    text = LatteT2V.from_config(STARTER_CONFIG)
    initialize_text(text, pass_through=True)
    classes = Latte.from_config(CLASS_CONFIG)
    initialize_class(classes)
    timesteps = torch.tensor([100, 900])
    with torch.no_grad():
        predicted = text(latents, timesteps, torch.randn(2, 5, TEXT_WIDTH))
        labelled = classes(latents, timesteps, torch.tensor([0, 17]))
    for output in (predicted, labelled):
        assert float((output[:, :4] - latents).square().mean()) < 0.01
        assert not output[:, 4:].any()


def test_a_new_text_model_without_pass_through_returns_zero() -> None:
    text = LatteT2V.from_config(STARTER_CONFIG)
    initialize_text(text, pass_through=False)
    with torch.no_grad():
        output = text(torch.randn(1, 4, 2, 8, 8), torch.tensor([5]), torch.randn(1, 3, TEXT_WIDTH))
    assert not output.any()


def test_the_ends_of_both_networks_are_known() -> None:
    text = LatteT2V.from_config(STARTER_CONFIG)
    ends = {name for name, _ in text.named_parameters() if is_end(name)}
    assert ends == {
        *("pos_embed.proj.weight", "pos_embed.proj.bias", "scale_shift_table"),
        *("proj_out.weight", "proj_out.bias"),
    }
    classes = Latte.from_config(CLASS_CONFIG)
    ends = {name for name, one in classes.named_parameters() if is_end(name) and one.requires_grad}
    assert ends == {
        *("x_embedder.proj.weight", "x_embedder.proj.bias"),
        *("final_layer.linear.weight", "final_layer.linear.bias"),
    }
